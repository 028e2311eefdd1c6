"""What a model is trained on, told in the ways in which people write losses."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from betty.backends.torch.influence.task import Task
from betty.ir.diagnostics import BettyError, listing, nearest

Likelihood = Literal["categorical", "gaussian", "bernoulli"]
"""Of what distribution a model's outputs are the logits (or the mean), so that labels can be drawn from it."""

KNOWN: dict[Any, tuple[Likelihood, float]] = {
    nn.CrossEntropyLoss: ("categorical", 1.0),
    functional.cross_entropy: ("categorical", 1.0),
    nn.MSELoss: ("gaussian", 2.0),
    functional.mse_loss: ("gaussian", 2.0),
    nn.BCEWithLogitsLoss: ("bernoulli", 1.0),
    functional.binary_cross_entropy_with_logits: ("bernoulli", 1.0),
}
"""Losses of torch that are negative log-likelihoods, up to a factor: ``(y - f)^2`` has twice that of a unit normal."""


def to_task(
    loss: Callable[..., Any] | Task,
    likelihood: Likelihood | None = None,
    outputs: Callable[[nn.Module, Any], Tensor] | None = None,
) -> Task:
    """The task of a loss in one of its forms.

    Args:
        loss: ``loss(outputs, targets)``, of batches ``(inputs, targets)`` or mappings with ``labels``, such as
            ``torch.nn.CrossEntropyLoss()`` (its ``reduction`` is set to ``none``); or ``loss(model, batch)``; or a
            :class:`Task`. Each gives one loss for each example of the batch, ``[n]``.
        likelihood: Of the outputs; known for the losses of torch.
        outputs: ``(model, batch) -> [n, ..., d]``: logits or means, for losses of the form ``loss(model, batch)``.

    Raises:
        BettyError: It is none of these forms, or there is no such likelihood.
    """
    if likelihood is not None and likelihood not in get_args(Likelihood):
        allowed = list(get_args(Likelihood))
        near = nearest(str(likelihood), allowed)
        raise BettyError(
            f"likelihood: found {likelihood!r}, expected one of {listing(allowed)}"
            + (f" (did you mean {near!r}?)" if near else "")
        )
    if isinstance(loss, Task):
        return loss
    if not callable(loss):
        raise BettyError(f"loss: found {type(loss).__name__}, expected a function or a module that gives [n] losses")
    if of_model(loss):
        return Task(losses=loss, outputs=outputs, likelihood=likelihood)
    of_outputs, kind, scale = _without_reduction(loss)
    predict = outputs or predicted
    # torch's losses treat each entry of a one-dimensional output alike; one loss an example is a sum over its outputs.
    apart = _Apart(of_outputs, summed=kind is not None)
    return Task(
        losses=lambda model, batch: apart(predict(model, batch), batch),
        outputs=predict,
        losses_of=apart,
        likelihood=likelihood or kind,
        scale=scale,
    )


def of_model(loss: Callable[..., Any]) -> bool:
    """Whether a loss takes the model and the batch rather than outputs and targets: its first argument says so."""
    if isinstance(loss, nn.Module):
        return False
    try:
        names = list(inspect.signature(loss).parameters)
    except (TypeError, ValueError):
        return False
    return bool(names) and (names[0] in {"model", "module", "network"} or names[1:2] == ["batch"])


def _without_reduction(loss: Callable[..., Any]) -> tuple[Callable[..., Any], Likelihood | None, float]:
    """The loss with an entry for each example, its likelihood, and how many times the negative log-likelihood it is."""
    bare = loss.func if isinstance(loss, partial) else loss
    kind, scale = KNOWN.get(type(bare) if isinstance(bare, nn.Module) else bare, (None, 1.0))
    if _reweighted(loss):  # classes with weights or smoothed labels: no longer the likelihood of the outputs
        kind = None
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        loss = copy.copy(loss)
        object.__setattr__(loss, "reduction", "none")
        return loss, kind, scale
    try:
        takes = "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):
        takes = False
    return (partial(loss, reduction="none") if takes else loss), kind, scale


def _reweighted(loss: Callable[..., Any]) -> bool:
    found = loss.keywords if isinstance(loss, partial) else vars(loss) if isinstance(loss, nn.Module) else {}
    parts = {**found, **(dict(loss.named_buffers()) if isinstance(loss, nn.Module) else {})}
    return bool(parts.get("label_smoothing")) or any(parts.get(name) is not None for name in ("weight", "pos_weight"))


@dataclass(frozen=True)
class _Apart:
    """Losses of outputs, one for each example."""

    loss: Callable[..., Any]
    summed: bool

    def __call__(self, outputs: Tensor, batch: Any) -> Tensor:
        targets = halves(batch)[1]
        if self.summed and isinstance(targets, Tensor) and targets.dtype == torch.bool:
            targets = targets.to(outputs.dtype)
        found: Tensor = self.loss(outputs, targets)
        return found.flatten(1).sum(1) if self.summed and found.dim() > 1 else found


def halves(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets of a batch.

    Raises:
        BettyError: It is neither a pair nor a mapping with ``labels``.
    """
    if isinstance(batch, Mapping) and "labels" in batch:
        return {key: value for key, value in batch.items() if key != "labels"}, batch["labels"]
    if isinstance(batch, Sequence) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, Mapping):
        found = f"a mapping with {listing([str(key) for key in batch])}"
    else:
        found = f"{len(batch)} parts" if isinstance(batch, Sequence) else type(batch).__name__
    raise BettyError(
        f"a loss of outputs and targets needs batches (inputs, targets), or mappings with 'labels'; found {found}: "
        "write it as loss(model, batch)"
    )


def predicted(model: nn.Module, batch: Any) -> Tensor:
    """The model's outputs; of the mappings that Hugging Face's models give, their ``logits``."""
    inputs = halves(batch)[0]
    found = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    outputs: Tensor = found if isinstance(found, Tensor) else found["logits"]
    return outputs


def checked(losses: Any, count: int, tokens: bool) -> Tensor:
    """Losses of a batch, one for each example (or token).

    Raises:
        BettyError: They are not.
    """
    expected = f"[{count}, tokens]" if tokens else f"[{count}]"
    if not isinstance(losses, Tensor):
        raise BettyError(f"the loss gives {type(losses).__name__}: expected one loss for each example, {expected}")
    shape = tuple(losses.shape)
    if losses.dim() != (2 if tokens else 1) or shape[0] != count:
        hint = ": reduction='none'" if not shape else ": .sum(1) or .mean(1)" if len(shape) > 1 and not tokens else ""
        raise BettyError(f"the loss gives a tensor {list(shape)}: expected one loss for each example, {expected}{hint}")
    return losses
