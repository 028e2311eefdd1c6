"""A problem's data as an endless stream of micro-batches on its device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, replace
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

from betty.backends.torch.cutting import Part, cut_loader
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
        part: Of every batch, where several processes train; the whole where ``None``.
        shards: Whether several processes would take a part each.
    """

    def __init__(
        self,
        problem: str,
        source: Callable[[], Any],
        loading: Loading,
        device: torch.device,
        dtype: torch.dtype | None = None,
        part: Part | None = None,
        shards: bool = True,
    ) -> None:
        self.problem, self.epoch, self.part, self.shards = problem, 0, part, shards
        self.weight = 1.0
        """Of the batch given or looked at last, by which the mean over all processes is that over the whole batch."""
        self._source, self._loading, self._device, self._dtype = source, loading, device, dtype
        self._loader: Any = None
        self._given: Any = None
        self._iterator: Epoch | None = None
        self._peeked: list[Any] = []

    def next(self) -> Any:
        """The next micro-batch.

        Raises:
            RunError: The data holds no batch at all.
        """
        if self._peeked:
            return self._peeked.pop()
        try:
            batch = self._pulled()
        except RunError:
            raise
        except Exception as error:
            raise self._blamed(error) from error
        self._weigh()
        return to_device(batch, self._device, self._dtype)

    def _pulled(self) -> Any:
        if self._iterator is None:
            self._iterator = self._start()
        batch = next(self._iterator, self)
        if batch is not self:
            return batch
        given = self._iterator.done
        self.epoch += 1
        self._iterator = self._start()
        batch = next(self._iterator, self)
        if batch is self:
            raise RunError(
                f"the data of {self.problem!r} has run dry: epoch {self.epoch} holds no batch, after {given} in the "
                "one before it; give a function that makes the data anew, or a data set"
                if given
                else f"the data of {self.problem!r} holds no batch"
            )
        return batch

    def _blamed(self, error: Exception) -> Exception:
        """What has gone wrong in loading a batch, with the place among the data."""
        at = f"batch {self._iterator.done} of epoch {self.epoch}" if self._iterator else f"epoch {self.epoch}"
        # What comes of a worker's end depends on what it was about: a batch may be half on its way.
        lost = isinstance(error, ConnectionError | EOFError) and getattr(self._loader, "num_workers", 0) > 0
        if lost or (isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")):
            reason = (str(error) or type(error).__name__).splitlines()[0]
            return RunError(f"a process that loads the data of {self.problem!r} has ended at {at}: {reason}")
        error.add_note(f"in loading the data of {self.problem!r}, {at}")
        return error

    def _weigh(self) -> None:
        if self.part is not None and self._iterator is not None:
            self.weight = self.part.uneven.get(self._iterator.done - 1, 1.0)

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
        part = None if self.part is None else replace(self.part, uneven={})
        return Stream(self.problem, self._apart, self._loading, self._device, self._dtype, part, self.shards)

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
            self._weigh()
        except StopIteration:
            raise RunError(
                f"the data of {self.problem!r} ends before its batch {state.done}, where the checkpoint was written"
            ) from None

    def shuffle_anew(self, seed: int) -> None:
        """Begin the next epoch, in an order of its own; data that comes in one order goes on from where it stands."""
        if self._loader is None:
            self._take_loader()
        if in_random_order(self._loader):
            for generator in generators_of(self._loader):
                generator.manual_seed(seed)
            self._peeked.clear()
            self._iterator, self.epoch = None, self.epoch + 1

    def _start(self, position: Position | None = None) -> Epoch:
        if self._loader is None or isinstance(self._loader, Iterator):
            self._take_loader()
        return Epoch(self._given, self.epoch, position)

    def _take_loader(self) -> None:
        self._loader = as_loader(self._source(), self._loading, self.problem)
        self._given = self._loader if self.part is None else cut_loader(self._loader, self.part, self.problem)


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
