"""Batches of a problem from its loaders, one or several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from betty.backends.torch.epochs import Epoch, Position, generators_of, in_random_order
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
        self.iterators: list[Epoch | None] = [None] * len(loaders)
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

    def state(self, ahead: int = 0) -> tuple[Position, ...]:
        """Where each loader stands; the last ``ahead`` batches of each were only looked at."""
        pairs = zip(self.iterators, self.epochs, strict=True)
        return tuple(one.position(ahead) if one is not None else Position(epoch=epoch) for one, epoch in pairs)

    def restore(self, state: tuple[Position, ...]) -> None:
        """Go on from where other loaders of the same data stood.

        Raises:
            RunError: There are not as many, or one ends before that.
        """
        if len(state) != len(self.loaders):
            raise RunError(f"{self.name!r} has {len(self.loaders)} loaders, the checkpoint has {len(state)}")
        for index, position in enumerate(state):
            self.epochs[index], self.iterators[index] = position.epoch, None
            if position.done is not None:
                try:
                    self._start(index, position)
                except StopIteration:
                    raise RunError(
                        f"the data of {self.name!r} ends before its batch {position.done}, where the checkpoint "
                        "was written"
                    ) from None

    def shuffle_anew(self, seed: int) -> None:
        """Begin the next epoch of every loader that can give its examples in another order."""
        for index, loader in enumerate(self.loaders):
            if in_random_order(loader):
                for generator in generators_of(loader):
                    generator.manual_seed(seed)
                self.iterators[index], self.epochs[index] = None, self.epochs[index] + 1

    def _start(self, index: int, position: Position | None = None) -> Epoch:
        loader = self.loaders[index]
        if not hasattr(loader, "__iter__"):
            raise RunError(
                f"the train_data_loader of {self.name!r} is {type(loader).__name__}: expected an iterable of batches"
            )
        epoch = self.iterators[index] = Epoch(loader, self.epochs[index], position)
        return epoch
