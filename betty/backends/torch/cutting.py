"""The data of several processes: all of them draw the same batches, and each takes its part of every one.

A batch of a program is that of all processes together. So any number of them trains as one does, on the same examples
in the same order; nothing is repeated, nothing left out, and a run may go on with another number.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from betty.backends.torch.errors import RunError
from betty.backends.torch.random import RandomState, derived_seed, replaying

CPU = torch.device("cpu")


@dataclass(eq=False)
class Part:
    """Which part of every batch is this process's.

    Args:
        rank: Which process this is.
        count: How many there are.
        seed: Of the draws that all processes make alike, such as the order of a loader without a generator.
    """

    rank: int
    count: int
    seed: int = 0
    uneven: dict[int, float] = field(default_factory=dict)
    """Weights of this process's part in batches of the present epoch that could not be cut evenly, by position."""

    def bounds(self, size: int) -> tuple[int, int]:
        """Where the part of a batch of ``size`` examples begins and ends; never empty."""
        begin, end = (rank * size // self.count for rank in (self.rank, self.rank + 1))
        return (begin, end) if begin < end else (min(begin, size - 1), min(begin, size - 1) + 1)

    def note(self, position: int, size: int) -> None:
        """Remember the weight by which the mean over all processes is the mean over the whole batch.

        A process that is left without an example evaluates one of another's, with weight zero.
        """
        begin, end = (rank * size // self.count for rank in (self.rank, self.rank + 1))
        if (end - begin) * self.count != size:
            self.uneven[position] = (end - begin) * self.count / size


class CutSampler:
    """The part of every batch of indices that another sampler gives; its order is the same in all processes."""

    def __init__(self, sampler: Any, part: Part) -> None:
        self.sampler, self.part = sampler, part
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch."""
        self._epoch = epoch
        for one in (self.sampler, getattr(self.sampler, "sampler", None)):
            if (set_epoch := getattr(one, "set_epoch", None)) is not None:
                set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[Any]]:
        self.part.uneven.clear()
        for position, batch in enumerate(_alike(lambda: self.sampler, self.part, self._epoch)):
            self.part.note(position, len(batch))
            begin, end = self.part.bounds(len(batch))
            yield list(batch)[begin:end]


class CutBatches:
    """The part of every batch of a loader that cannot be asked for indices: loaded whole, then cut."""

    def __init__(self, loader: Any, part: Part, problem: str) -> None:
        self.loader, self.part, self.problem = loader, part, problem
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch."""
        self._epoch = epoch
        for one in (self.loader, getattr(self.loader, "sampler", None)):
            if (set_epoch := getattr(one, "set_epoch", None)) is not None:
                set_epoch(epoch)

    @property
    def generator(self) -> Any:
        return getattr(self.loader, "generator", None)

    @property
    def sampler(self) -> Any:
        return getattr(self.loader, "sampler", None)

    def __iter__(self) -> Iterator[Any]:
        self.part.uneven.clear()
        for position, batch in enumerate(_alike(lambda: self.loader, self.part, self._epoch)):
            yield cut(batch, self.part, position, self.problem)


def _alike(source: Callable[[], Any], part: Part, epoch: int) -> Iterator[Any]:
    """Iterate over ``source`` while it draws what it draws in every process.

    The draws of losses are each process's own, so that the global generators stand elsewhere in each.
    """
    state = RandomState.seeded(derived_seed(part.seed, "order", str(epoch)), CPU)
    iterator: Iterator[Any] | None = None
    while True:
        with replaying(state, CPU):
            iterator = iter(source()) if iterator is None else iterator
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                state = RandomState.capture(CPU)
        yield batch


def cut_loader(loader: Any, part: Part, problem: str) -> Any:
    """A loader of this process's part of every batch of ``loader``."""
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return CutBatches(loader, part, problem)
    options: dict[str, Any] = {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "persistent_workers": loader.persistent_workers,
        "prefetch_factor": loader.prefetch_factor,
        "generator": loader.generator,  # the seed that it draws for its workers moves on the order drawn from it
    }
    if loader.batch_sampler is not None:
        return DataLoader(loader.dataset, batch_sampler=CutSampler(loader.batch_sampler, part), **options)
    if hasattr(loader.sampler, "batch_size"):  # it gives batches of indices, and the data set takes them whole
        return DataLoader(loader.dataset, batch_size=None, sampler=CutSampler(loader.sampler, part), **options)
    return CutBatches(loader, part, problem)


def cut(batch: Any, part: Part, position: int, problem: str) -> Any:
    """This process's part of a batch: every tensor is cut along its first dimension, which all have in common.

    Raises:
        RunError: They have none in common.
    """
    sizes = {leaf.shape[0] for leaf in _tensors(batch) if leaf.dim()}
    if len(sizes) != 1:
        found = "no tensors" if not sizes else f"tensors of {', '.join(map(str, sorted(sizes)))} rows"
        raise RunError(
            f"the data of {problem!r} gives batches of {found}, which cannot be cut for {part.count} processes: "
            "expected tensors with the examples in their first dimension; 'shard: false' beside the data's target "
            "gives every process the whole batch"
        )
    (size,) = sizes
    part.note(position, size)
    return _sliced(batch, slice(*part.bounds(size)), size)


def _tensors(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, Mapping):
        for one in item.values():
            yield from _tensors(one)
    elif isinstance(item, list | tuple):
        for one in item:
            yield from _tensors(one)


def _sliced(item: Any, rows: slice, size: int) -> Any:
    if isinstance(item, Tensor):
        return item[rows] if item.dim() else item
    if isinstance(item, Mapping):
        found: Any = copy.copy(item)  # what it holds beside its items comes along
        found.update({key: _sliced(one, rows, size) for key, one in item.items()})
        return found
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*(_sliced(one, rows, size) for one in item))
    if isinstance(item, list | tuple):
        if len(item) == size and not any(isinstance(one, Tensor | Mapping | list | tuple) for one in item):
            return item[rows]  # such as the texts of the examples
        return type(item)(_sliced(one, rows, size) for one in item)
    return item


def joined(parts: Sequence[Any]) -> Any:
    """The whole batch of its parts, in the order of the processes."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts)) if first.dim() else first
    if isinstance(first, Mapping):
        found: Any = copy.copy(first)
        found.update({key: joined([part[key] for part in parts]) for key in first})
        return found
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(joined(column) for column in zip(*parts, strict=True)))
    if isinstance(first, list | tuple):
        if any(isinstance(one, Tensor | Mapping | list | tuple) for one in first):
            return type(first)(joined(column) for column in zip(*parts, strict=True))
        return type(first)(one for part in parts for one in part)
    return first
