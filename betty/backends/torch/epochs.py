"""Passes over a loader whose position can be written down and gone on with in another process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from betty.backends.torch.random import RandomState, replaying

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a pass over a loader stands.

    Args:
        epoch: Number of the pass.
        done: Batches that it has given; ``None`` where it has not begun.
        ahead: How many of these were only looked at.
        random: The process's random states when it began, from which a loader may draw its order.
        generators: States of the loader's own generators at that time.
        loader: What a loader with a ``state_dict`` of its own says of itself.
    """

    epoch: int
    done: int | None = None
    ahead: int = 0
    random: RandomState | None = None
    generators: tuple[Tensor, ...] = ()
    loader: Any = None


class Epoch:
    """One pass over a loader.

    A loader with ``state_dict`` and ``load_state_dict``, such as torchdata's ``StatefulDataLoader``, is asked for its
    position. Of any other the states of all generators are taken when the pass begins; to go on from a position they
    are put back, the pass is begun again and the batches that it has given are skipped. A ``DataLoader`` over a data
    set by index that loads in this process skips indices and loads nothing. Exact where the loader's order depends on
    these states alone.

    Args:
        loader: Any iterable of batches.
        number: Of the pass, for samplers with ``set_epoch``.
        position: Where to go on from, if this is not the beginning.
    """

    def __init__(self, loader: Any, number: int, position: Position | None = None) -> None:
        for part in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
            if (set_epoch := getattr(part, "set_epoch", None)) is not None:
                set_epoch(number)
        self.loader, self.number = loader, number
        self.done = position.done or 0 if position else 0
        self.ahead: list[Any] = []
        """Batches that were looked at before the position was written down, loaded again."""
        self._random: RandomState | None = None
        self._generators: tuple[Tensor, ...] = ()
        if position is None:
            self._note()
            self._iterator: Iterator[Any] = iter(loader)
        elif position.loader is not None and _stateful(loader):
            self._random, self._generators = position.random, position.generators
            loader.load_state_dict(position.loader)
            self._iterator = iter(loader)
        else:
            self._random, self._generators = position.random, position.generators
            self._go_on(position.ahead)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = next(self._iterator)
        self.done += 1
        return batch

    def position(self, ahead: int = 0) -> Position:
        """Where the pass stands; the last ``ahead`` batches that it has given were only looked at."""
        return Position(
            epoch=self.number,
            done=self.done,
            ahead=ahead,
            random=self._random,
            generators=self._generators,
            loader=self.loader.state_dict() if _stateful(self.loader) and not ahead else None,
        )

    def _note(self) -> None:
        if not isinstance(self.loader, list | tuple):  # these draw nothing, and may be one batch long
            self._random = RandomState.capture(CPU)
            self._generators = tuple(one.get_state() for one in generators_of(self.loader))

    def _go_on(self, ahead: int) -> None:
        for generator, state in zip(generators_of(self.loader), self._generators, strict=False):
            generator.set_state(state.cpu())
        with replaying(self._random, CPU):
            self._iterator = iter(self.loader)
            # Indices alone, where nothing depends on the examples that were loaded.
            skip = getattr(self._iterator, "_next_index", None) if _by_index(self.loader) else None
            for _ in range(self.done - ahead):
                (skip or self._iterator.__next__)()
            # Here, since a loader may draw its order with its first batch.
            self.ahead = [next(self._iterator) for _ in range(ahead)]


def _stateful(loader: Any) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def _by_index(loader: Any) -> bool:
    plain = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    return plain and loader.num_workers == 0


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators of a loader and of its samplers, each once."""
    found: dict[int, torch.Generator] = {}
    parts = [loader]
    while parts:
        part = parts.pop()
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            found.setdefault(id(generator), generator)
        parts += [one for key in ("batch_sampler", "sampler") if (one := getattr(part, key, None)) is not None]
    return list(found.values())


def in_random_order(loader: Any) -> bool:
    """Whether a loader may give its examples in another order."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    sampler = getattr(loader.sampler, "sampler", loader.sampler)
    return not isinstance(sampler, SequentialSampler) and not isinstance(loader.batch_sampler, SequentialSampler)
