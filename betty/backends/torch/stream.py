"""A problem's data as an endless stream of micro-batches on its device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from betty.backends.torch.epochs import Epoch, Position, generators_of, in_random_order
from betty.backends.torch.errors import RunError


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a data set is cut into micro-batches; a DataLoader or any other iterable is taken as it comes.

    Args:
        batch_size: Examples in a micro-batch; ``None`` takes the whole data set at once.
        shuffle: Draw a new order for every epoch.
        drop_last: Leave out a last, smaller micro-batch.
        workers: Loader processes; 0 loads in this one.
        seed: Of the order.
    """

    batch_size: int | None = None
    shuffle: bool = True
    drop_last: bool = False
    workers: int = 0
    seed: int = 0


class Stream:
    """Endless micro-batches from a data set, a loader or an iterable; the next epoch begins where one ends.

    Args:
        problem: Name, for messages.
        source: Returns the data; called again for each epoch where the data is an iterator, that is used up once.
        loading: How a data set is cut.
        device: Where tensors go.
        dtype: What floating-point tensors become, or ``None`` to leave them.
    """

    def __init__(
        self,
        problem: str,
        source: Callable[[], Any],
        loading: Loading,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.problem, self.epoch = problem, 0
        self._source, self._loading, self._device, self._dtype = source, loading, device, dtype
        self._loader: Any = None
        self._iterator: Epoch | None = None
        self._peeked: list[Any] = []

    def next(self) -> Any:
        """The next micro-batch.

        Raises:
            RunError: The data holds no batch at all.
        """
        if self._peeked:
            return self._peeked.pop()
        if self._iterator is None:
            self._iterator = self._start()
        try:
            batch = next(self._iterator)
        except StopIteration:
            self.epoch += 1
            self._iterator = self._start()
            batch = next(self._iterator, self)
            if batch is self:
                raise RunError(f"the data of {self.problem!r} holds no batch") from None
        return to_device(batch, self._device, self._dtype)

    def peek(self) -> Any:
        """The micro-batch that :meth:`next` will give."""
        if not self._peeked:
            self._peeked.append(self.next())
        return self._peeked[-1]

    def fork(self) -> Stream:
        """A stream of the same data from the beginning of an epoch; drawing from it leaves this one as it is.

        Raises:
            RunError: Both would draw from one live object that cannot be copied, such as a generator.
        """
        return Stream(self.problem, self._apart, self._loading, self._device, self._dtype)

    def _apart(self) -> Any:
        """The data as the source gives it; a copy where it is what this stream draws from, data sets excepted."""
        data = self._source()
        if data is not self._loader or not (isinstance(data, Iterator | DataLoader) or hasattr(data, "__dict__")):
            return data
        examples = getattr(data, "dataset", None)
        shared = {id(examples): examples} if examples is not None else {}
        try:
            return copy.deepcopy(data, shared)
        except TypeError as error:
            raise RunError(
                f"the data of {self.problem!r} is a live {type(data).__name__} that cannot be copied ({error}); "
                "give a function that makes it"
            ) from None

    def state(self) -> Any:
        """Where the stream stands, for :meth:`restore` in another process.

        Returns:
            A :class:`betty.backends.torch.epochs.Position`, or several.
        """
        if self._iterator is None:
            return Position(epoch=self.epoch)
        return self._iterator.position(ahead=len(self._peeked))

    def restore(self, state: Any) -> None:
        """Go on from where a stream of the same data stood.

        Raises:
            RunError: The data ends before that.
        """
        self.epoch, self._iterator = state.epoch, None
        self._peeked.clear()
        if state.done is None:
            return
        try:
            self._iterator = self._start(state)
            self._peeked = [to_device(batch, self._device, self._dtype) for batch in self._iterator.ahead]
        except StopIteration:
            raise RunError(
                f"the data of {self.problem!r} ends before its batch {state.done}, where the checkpoint was written"
            ) from None

    def shuffle_anew(self, seed: int) -> None:
        """Begin the next epoch, in an order of its own; data that comes in one order goes on from where it stands."""
        if self._loader is None:
            self._loader = as_loader(self._source(), self._loading, self.problem)
        if in_random_order(self._loader):
            for generator in generators_of(self._loader):
                generator.manual_seed(seed)
            self._peeked.clear()
            self._iterator, self.epoch = None, self.epoch + 1

    def _start(self, position: Position | None = None) -> Epoch:
        if self._loader is None or isinstance(self._loader, Iterator):
            self._loader = as_loader(self._source(), self._loading, self.problem)
        return Epoch(self._loader, self.epoch, position)


def as_loader(data: Any, loading: Loading, problem: str = "data") -> Any:
    """An iterable of micro-batches from whatever a program calls its data.

    Raises:
        RunError: ``data`` is neither a data set nor an iterable.
    """
    # Iterable-style data may know its length, and inherits a method to index it that does nothing.
    sized = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, IterableDataset)
    if isinstance(data, DataLoader) or not (isinstance(data, Dataset) or (sized and loading.batch_size)):
        if not hasattr(data, "__iter__"):
            raise RunError(f"the data of {problem!r} is {type(data).__name__}: expected a data set or an iterable")
        return data
    if not sized:
        return _in_its_own_order(data, loading)
    if len(data) == 0:
        raise RunError(f"the data of {problem!r} is empty")
    if loading.batch_size is None and loading.workers == 0:
        return _whole(data)
    return _cut(data, loading)


def _whole(data: Any) -> list[Any]:
    """The whole data set as the one batch of an epoch, collated once."""
    if type(data) is TensorDataset:
        return [list(data.tensors)]
    return [next(iter(DataLoader(data, batch_size=len(data), generator=torch.Generator())))]


def _in_its_own_order(data: Any, loading: Loading) -> DataLoader[Any]:
    options: dict[str, Any] = {"drop_last": loading.drop_last} if loading.batch_size else {}
    generator = torch.Generator().manual_seed(loading.seed)
    return DataLoader(data, batch_size=loading.batch_size, num_workers=loading.workers, generator=generator, **options)


def _cut(data: Any, loading: Loading) -> DataLoader[Any]:
    # A loader without a generator of its own draws a seed from torch's global one for every epoch.
    generator = torch.Generator().manual_seed(loading.seed)
    size = loading.batch_size or len(data)
    options: dict[str, Any] = {"num_workers": loading.workers, "generator": generator}
    sampler = RandomSampler(data, generator=generator) if loading.shuffle else SequentialSampler(data)
    if type(data) is TensorDataset:
        # Indexed with a list it gives a whole batch at once, which spares a Python loop and a copy per example.
        batches = BatchSampler(sampler, size, drop_last=loading.drop_last)
        return DataLoader(data, sampler=batches, batch_size=None, **options)
    return DataLoader(data, batch_size=size, sampler=sampler, drop_last=loading.drop_last, **options)


def to_device(batch: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """``batch`` with every tensor inside on ``device``; containers keep their type, other values stay as they are."""
    if isinstance(batch, Tensor):
        if dtype is None and batch.device == device:
            return batch
        floating = dtype if dtype is not None and batch.is_floating_point() else None
        return batch.to(device=device, dtype=floating, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(item, device, dtype) for item in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(item, device, dtype) for item in batch)
    if hasattr(batch, "to") and callable(batch.to):  # such as BatchEncoding
        return batch.to(device)
    if isinstance(batch, MutableMapping):
        moved = copy.copy(batch)  # what a defaultdict needs beside its items comes along
        moved.update({key: to_device(item, device, dtype) for key, item in batch.items()})
        return moved
    return batch
