"""The data of a valuation, example by example: what a page shows of it, and losses of queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from betty.valuation.batches import Batch, Batches, size

if TYPE_CHECKING:
    from betty.valuation.valuation import Valuation


class Examples:
    """Single examples of data that comes in batches, by their place in it.

    Args:
        source: A ``DataLoader``, a data set, or batches.
    """

    def __init__(self, source: Any) -> None:
        inner = source.source if isinstance(source, Batches) else source
        found = inner if isinstance(inner, Dataset) else getattr(inner, "dataset", None)
        self._direct = found if hasattr(found, "__getitem__") and hasattr(found, "__len__") else None
        self._batches = [inner] if isinstance(inner, Mapping | Tensor) else inner
        self._kept: dict[int, Any] = {}

    def fetch(self, places: Sequence[int]) -> None:
        """Keep the examples at some places, in one pass where the data cannot be asked for them."""
        missing = {place for place in places if place not in self._kept}
        if self._direct is not None:
            self._kept |= {place: self._direct[place] for place in missing if 0 <= place < len(self._direct)}
            return
        seen = 0
        for batch in self._batches if missing else ():
            count = size(batch)
            self._kept |= {place: one(batch, place - seen) for place in missing if seen <= place < seen + count}
            seen += count

    def __getitem__(self, place: int) -> Any:
        """The example, or ``None`` where there is none."""
        if place not in self._kept:
            self.fetch([place])
        return self._kept.get(place)


def one(batch: Any, place: int) -> Any:
    """One example of a batch: every tensor and list of it at ``place``."""
    if isinstance(batch, Mapping):
        return {key: one(part, place) for key, part in batch.items()}
    if isinstance(batch, tuple) and all(isinstance(part, Tensor | Sequence | Mapping) for part in batch):
        return tuple(one(part, place) for part in batch)
    if isinstance(batch, list) and batch and isinstance(batch[0], Tensor | Mapping | list | tuple):
        return [one(part, place) for part in batch]
    if isinstance(batch, Tensor):
        return batch[place].detach().cpu() if batch.dim() else batch
    return batch[place] if isinstance(batch, Sequence) else batch


def first(example: Any) -> Any:
    """What is shown of an example: its first part, such as the inputs beside the targets."""
    if isinstance(example, Mapping):
        shown = next((example[key] for key in ("text", "image", "pixel_values") if key in example), None)
        return shown if shown is not None else next(iter(example.values()), None)
    return example[0] if isinstance(example, tuple | list) and len(example) else example


def target(example: Any) -> Any:
    """The label of an example, a class or a number; ``None`` where there is none that can be told."""
    if isinstance(example, Mapping):
        found = next((example[key] for key in ("labels", "label", "target") if key in example), None)
    else:
        found = example[1] if isinstance(example, tuple | list) and len(example) > 1 else None
    if isinstance(found, Tensor):
        return found.item() if found.numel() == 1 else None
    return found if isinstance(found, int | float | str) else None


def named(classes: Sequence[str] | None, found: Any) -> str | None:
    """A label in words: the name of its class where there is one."""
    if found is None:
        return None
    if classes is not None and isinstance(found, int) and 0 <= found < len(classes):
        return classes[found]
    return f"{found:.4g}" if isinstance(found, float) else str(found)


def answers(
    valuation: Valuation, batches: Batches, model: torch.nn.Module | None = None
) -> tuple[Tensor, Tensor | None]:
    """Losses of queries, float64 ``[queries]``, and predicted classes where outputs are logits of classes.

    Args:
        valuation: What knows the loss of queries.
        batches: The queries.
        model: In the place of the valuation's; evaluated in evaluation mode, and left as it was.
    """
    asked = valuation.model if model is None else model
    training = {part: part.training for part in asked.modules()}
    asked.eval()
    try:
        with torch.no_grad():
            pairs = [_of_batch(valuation, asked, batch) for batch in batches]
    finally:
        for part, mode in training.items():
            part.training = mode
    losses = torch.cat([losses for losses, _ in pairs]) if pairs else torch.zeros(0, dtype=torch.float64)
    classes = [found for _, found in pairs if found is not None]
    return losses, torch.cat(classes) if classes and len(classes) == len(pairs) else None


def _of_batch(valuation: Valuation, model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
    losses = valuation._query(model, batch.data)
    losses = losses.flatten(1).sum(1) if losses.dim() > 1 else losses
    return losses.detach().double().cpu(), _classes(valuation.task.outputs, model, batch, valuation.task.likelihood)


def _classes(
    outputs: Callable[[torch.nn.Module, Any], Tensor] | None,
    model: torch.nn.Module,
    batch: Batch,
    likelihood: str | None,
) -> Tensor | None:
    if likelihood != "categorical" or outputs is None:
        return None
    found = outputs(model, batch.data)
    return found.argmax(-1).cpu() if found.dim() == 2 and len(found) == batch.count else None


def cut(batch: Any, count: int) -> Any:
    """The first examples of a batch."""
    if isinstance(batch, Tensor):
        return batch[:count] if batch.dim() else batch
    if isinstance(batch, Mapping):
        return {key: cut(part, count) for key, part in batch.items()}
    if isinstance(batch, list | tuple):
        nested = all(isinstance(part, Tensor | Mapping | list | tuple) for part in batch)
        return type(batch)(cut(part, count) for part in batch) if nested else batch[:count]
    return batch
