"""Data in the forms in which people hold it, as batches with the ids of their examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, RandomSampler

from betty.ir.diagnostics import BettyError

Ids = Callable[[Any], Any]
"""From a batch to the ids of its examples: whole numbers ``[n]``."""

BATCH = 64
"""Examples of a batch where a data set is given without a loader."""


@dataclass(frozen=True)
class Batches:
    """Batches with the ids of their examples, as often as they are asked for.

    Args:
        source: What gives the batches, again at each iteration.
        device: Where they go.
        ids: Of the examples of a batch; their places in the data by default.
        share: Which part of how many parts of the batches is this process's.
        even: Whether every process has to take as many batches as the others, since the model's parts are exchanged
            on the way: one that has none left then takes the last one along, and its examples do not count.
    """

    source: Iterable[Any]
    device: torch.device
    ids: Ids | None = None
    share: tuple[int, int] = (0, 1)
    even: bool = False

    def __iter__(self) -> Iterator[Batch]:
        (own, parts), seen, place, batch = self.share, 0, -1, None
        for place, batch in enumerate(self.source):
            count = size(batch)
            if place % parts == own:
                yield Batch(moved(batch, self.device), self._ids(batch, seen, count), count)
            seen += count
        if self.even and batch is not None and own > place % parts:
            count = size(batch)
            yield Batch(moved(batch, self.device), self._ids(batch, seen - count, count), count, spare=True)

    def _ids(self, batch: Any, seen: int, count: int) -> Tensor:
        if self.ids is None:
            return torch.arange(seen, seen + count)
        return whole_ids(self.ids(batch), count)


@dataclass(frozen=True)
class Batch:
    """One batch on the device, and the ids of its examples, int64 ``[count]``.

    A spare one is another process's, computed for the sake of what processes exchange.
    """

    data: Any
    ids: Tensor
    count: int
    spare: bool = False


def whole_ids(ids: Any, count: int) -> Tensor:
    """Ids as int64 ``[count]``.

    Raises:
        BettyError: They are no whole numbers, or not as many as there are examples.
    """
    try:
        found = torch.as_tensor(ids).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise BettyError(f"ids are {type(ids).__name__}: expected {count} whole numbers") from None
    if found.dim() != 1 or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise BettyError(f"ids are {found.dtype} {list(found.shape)}: expected {count} whole numbers")
    if len(found) != count:
        raise BettyError(f"{len(found)} ids for {count} examples")
    return found.long()


def to_batches(
    data: Any, device: torch.device, ids: Ids | None = None, *, share: bool = False, even: bool = False
) -> Batches:
    """Batches of a loader, a data set, a list of batches, or of one batch.

    Args:
        data: A ``DataLoader``; a data set, taken in batches of 64; a list of batches; or one batch, a tuple or mapping
            of tensors.
        device: Where batches go.
        ids: Of the examples of a batch.
        share: Whether each of several processes takes its part of the batches.
        even: Whether all have to take as many; see :class:`Batches`.

    Raises:
        BettyError: It is none of these, can be gone through once only, or comes in another order each time without
            ids.
    """
    source = _source(data)
    sampler = getattr(source, "sampler", None)
    apart = isinstance(sampler, DistributedSampler)
    if ids is None and (isinstance(sampler, RandomSampler) or apart):
        how = "shares its data out to processes" if apart else "is shuffled"
        raise BettyError(
            f"the loader {how}, so that an example cannot be known by its place: give ids=lambda batch: ..., or a "
            "loader in the data's own order (every process may have the whole of it)"
        )
    joined = share and not apart and dist.is_available() and dist.is_initialized()
    return Batches(source, device, ids, (dist.get_rank(), dist.get_world_size()) if joined else (0, 1), even and joined)


def _source(data: Any) -> Iterable[Any]:
    if isinstance(data, DataLoader | Batches):
        return data.source if isinstance(data, Batches) else data
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=BATCH) if not isinstance(data, IterableDataset) else DataLoader(data, BATCH)
    if isinstance(data, Mapping) or (
        isinstance(data, tuple | list) and data and all(isinstance(part, Tensor) for part in data)
    ):
        return [data]
    if isinstance(data, Tensor) or not isinstance(data, Iterable):
        raise BettyError(
            f"found {type(data).__name__}: expected a DataLoader, a data set, a list of batches, or one batch"
        )
    if iter(data) is data:
        raise BettyError(
            f"found {type(data).__name__}, which can be gone through once only: expected a DataLoader, a data set, or "
            "a list of batches"
        )
    return data


def size(batch: Any) -> int:
    """How many examples a batch has: the length of its first tensor.

    Raises:
        BettyError: There is no tensor in it.
    """
    found = next(_tensors(batch), None)
    if found is None or found.dim() == 0:
        raise BettyError(f"a batch is {type(batch).__name__} without a tensor that has one row an example")
    return len(found)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from _tensors(part)
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        for part in batch:
            yield from _tensors(part)


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: moved(part, device) for key, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(part, device) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(moved(part, device) for part in batch)
    return batch


def token_ids(ids: Tensor, length: int) -> Tensor:
    """Ids of the tokens of sequences: example and position, ``[n * length, 2]``."""
    return torch.stack([ids.repeat_interleave(length), torch.arange(length).repeat(len(ids))], 1)


def own_rank() -> int:
    """The place of this process among those that share the work."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def wait() -> None:
    """Until every process is here, so that what one has written is seen by all."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
