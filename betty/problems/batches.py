"""Batches of a problem from its loaders, one or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from betty.backends.torch.errors import RunError


class Loaders:
    """Endless batches from each of some loaders; a loader is any iterable, such as a list that holds one batch.

    Args:
        name: Of the problem, for messages.
        loaders: What the batches come from.
        ended: Called whenever the first loader has come to its end.
    """

    def __init__(self, name: str, loaders: tuple[Any, ...], ended: Callable[[], None]) -> None:
        self.name, self.loaders, self._ended = name, loaders, ended
        self.iterators: list[Iterator[Any] | None] = [None] * len(loaders)
        self.epochs = [0] * len(loaders)

    def next(self, index: int) -> Any:
        """The next batch of one loader, as the loader gives it.

        Raises:
            RunError: The loader holds no batch.
        """
        iterator = self.iterators[index]
        if iterator is None:
            iterator = self._start(index)
        try:
            return next(iterator)
        except StopIteration:
            if index == 0:
                self._ended()
            self.epochs[index] += 1
        try:
            return next(self._start(index))
        except StopIteration:
            raise RunError(f"the data of {self.name!r} holds no batch") from None

    def _start(self, index: int) -> Iterator[Any]:
        loader = self.loaders[index]
        for part in (loader, getattr(loader, "sampler", None)):
            set_epoch = getattr(part, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(self.epochs[index])
        if not hasattr(loader, "__iter__"):
            raise RunError(
                f"the train_data_loader of {self.name!r} is {type(loader).__name__}: expected an iterable of batches"
            )
        iterator: Iterator[Any] = iter(loader)
        self.iterators[index] = iterator
        return iterator
