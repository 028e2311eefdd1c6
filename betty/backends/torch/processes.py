"""Several processes that train one program: gradients are averaged, and what one of them finds out is told to all."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import fmean
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

from betty.backends.torch.cutting import Part
from betty.backends.torch.errors import RunError
from betty.backends.torch.tree import Tree, sharded

Found = TypeVar("Found")

PATIENCE = timedelta(days=30)
"""How long processes wait for what one of them does alone, such as a validation."""


@dataclass
class Traffic:
    """Operations of all processes so far, and the bytes that this one has given to them."""

    calls: int = 0
    bytes: int = 0

    def note(self, tensor: Tensor) -> None:
        self.calls += 1
        self.bytes += tensor.numel() * tensor.element_size()


@contextmanager
def meeting() -> Iterator[None]:
    """Name what it means when an operation of all processes fails.

    Raises:
        RunError: It has failed.
    """
    try:
        yield
    except RuntimeError as error:  # gloo raises nothing more special
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"the processes have lost one another: one of them has ended, or has come too late ({reason}); "
            "its own message says why"
        ) from None


@dataclass(frozen=True, eq=False)
class Processes:
    """The processes of a run, as one of them sees them.

    Args:
        rank: Which one this is.
        count: How many there are.
        patient: A group of them all for waiting; the time limit of the others is for computing together.
    """

    rank: int
    count: int
    patient: Any
    traffic: Traffic = field(default_factory=Traffic)
    groups: dict[str, Any] = field(default_factory=dict)
    """Further groups of them all, by what they are for."""

    @classmethod
    def joined(cls, backend: str, seconds: float, device: torch.device) -> Processes | None:
        """The processes that ``torchrun`` has started, this one among them; ``None`` where it is alone.

        A process group that the program has made itself is used as it is.

        Args:
            backend: ``nccl``, ``gloo`` or ``mpi``; ``auto`` is ``nccl`` on a GPU, and on a CPU ``nccl`` gives way to
                ``gloo``.
            seconds: Time limit of an operation of all processes.
            device: Where this process runs.

        Raises:
            RunError: The processes do not find one another.
        """
        if not dist.is_available() or (int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_initialized()):
            return None
        if not dist.is_initialized():
            chosen = "nccl" if backend == "auto" else backend
            chosen = "gloo" if chosen == "nccl" and device.type != "cuda" else chosen
            if device.type == "cuda":
                torch.cuda.set_device(device)
            try:
                limit = timedelta(seconds=seconds)
                store, rank, count = next(rendezvous("env://", timeout=limit))
                # Processes that torchrun starts again find the store of those before, with addresses of the dead.
                store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
                dist.init_process_group(chosen, store=store, rank=rank, world_size=count, timeout=limit)
            except (RuntimeError, ValueError) as error:
                raise RunError(f"the processes cannot form a group by {chosen}: {error}") from error
        if dist.get_world_size() == 1:
            return None
        if dist.get_rank():
            logging.getLogger("betty").setLevel(logging.ERROR)  # the first speaks for all
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=PATIENCE))

    def part(self, seed: int) -> Part:
        """This process's part of every batch."""
        return Part(self.rank, self.count, seed)

    def averaged(self, tree: Tree) -> Tree:
        """The mean of a tree over all processes, in one operation for each dtype; a graph that it has is kept.

        A tree that the processes share is the mean already.
        """
        if tree and sharded(tree[0]):
            return tree
        found: list[Tensor] = [leaf.detach() for leaf in tree]
        # In an order that all processes have in common.
        for dtype in dict.fromkeys(leaf.dtype for leaf in found):
            places = [index for index, leaf in enumerate(found) if leaf.dtype == dtype]
            flat = torch.cat([found[index].reshape(-1) for index in places])
            self._sum(flat)
            flat /= self.count
            for index, part in zip(places, flat.split([found[index].numel() for index in places]), strict=True):
                found[index] = part.view(found[index].shape)
        pairs = zip(tree, found, strict=True)
        return tuple([leaf + (mean - leaf.detach()) if leaf.requires_grad else mean for leaf, mean in pairs])

    def averaged_with(self, tree: Tree, idle: set[int]) -> tuple[Tree, set[int]]:
        """The mean of a gradient, and those of its ``idle`` parts that no process has used."""
        if not tree or sharded(tree[0]):
            return tree, idle
        used = tree[0].new_ones(len(tree))
        used[list(idle)] = 0
        *mean, used = self.averaged((*tree, used))
        return tuple(mean), {index for index in idle if not used[index]} if idle else idle

    def shown(self, flat: Tensor) -> list[Tensor]:
        """The vectors of all processes, by rank; they are equally long."""
        self.traffic.note(flat)
        found = [torch.empty_like(flat) for _ in range(self.count)]
        with meeting():
            dist.all_gather(found, flat)
        return found

    def begin_sum(self, flat: Tensor) -> Any:
        """Begin to add up a vector over all processes; for :meth:`end_sum`."""
        self.traffic.note(flat)
        with meeting():
            return dist.all_reduce(flat, async_op=True)

    def end_sum(self, pending: Any) -> None:
        """Wait for a sum."""
        with meeting():
            pending.wait()

    def _sum(self, flat: Tensor) -> None:
        self.traffic.note(flat)
        with meeting():
            dist.all_reduce(flat)

    def alike(self, module: nn.Module) -> None:
        """Give a module the parameters and buffers that it has in the first process."""
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor, src=0)

    def told(self, value: Any) -> Any:
        """What the first process has found; the others wait for it as long as it takes."""
        box = [value]
        with meeting():
            dist.broadcast_object_list(box, src=0, group=self.patient)
        return box[0]

    def by_first(self, find: Callable[[], Found], what: str) -> Found:
        """What ``find`` returns in the first process alone; the others wait for it as long as it takes.

        Raises:
            RunError: It has failed there; in the first process the exception itself is raised.
        """
        found: Found | None = None
        if self.rank == 0:
            try:
                found = find()
            except BaseException as error:
                self.told((f"{type(error).__name__}: {error}", None))
                raise
        failure, found = self.told(("", found))
        if failure:
            raise RunError(f"{what} has failed in the first process: {failure}")
        return cast("Found", found)

    def gathered(self, value: Any) -> list[Any]:
        """What every process has found, by rank, in the first process; nothing in the others."""
        box: list[Any] | None = [None] * self.count if self.rank == 0 else None
        with meeting():
            dist.gather_object(value, box, dst=0, group=self.patient)
        return box or []

    @property
    def writing(self) -> Any:
        """A group for what is written beside the training; all have to ask for it first at the same time."""
        if "writing" not in self.groups:
            self.groups["writing"] = dist.new_group(backend="gloo", timeout=PATIENCE)
        return self.groups["writing"]

    def collected(self, value: Any) -> list[Any]:
        """As :meth:`gathered`, beside the training."""
        box: list[Any] | None = [None] * self.count if self.rank == 0 else None
        with meeting():
            dist.gather_object(value, box, dst=0, group=self.writing)
        return box or []

    def dealt(self, values: list[Any]) -> Any:
        """This process's of the values that the first one has, by rank."""
        box: list[Any] = [None]
        with meeting():
            dist.scatter_object_list(box, values if self.rank == 0 else None, src=0, group=self.patient)
        return box[0]

    def most(self, values: Sequence[int]) -> list[int]:
        """The greatest of each of these numbers in any process."""
        found = torch.tensor(list(values), dtype=torch.int64)
        with meeting():
            dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.patient)
        return [int(one) for one in found]

    def mean_row(self, row: Mapping[str, float]) -> dict[str, float]:
        """The mean of numbers by name over those processes that have them."""
        with meeting():
            rows: list[Any] = [None] * self.count
            dist.all_gather_object(rows, dict(row), group=self.patient)
        names = dict.fromkeys(name for one in rows for name in one)
        return {name: fmean([one[name] for one in rows if name in one]) for name in names}

    def share(self, loader: Any) -> Any:
        """This process's part of a loader's data; what is no loader over a data set by index is returned as it is.

        The order is drawn anew every epoch, if it was before, and the last examples are repeated where the processes
        do not divide the data evenly.
        """
        plain = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
        if not plain or type(loader.sampler) not in (RandomSampler, SequentialSampler) or loader.batch_size is None:
            return loader
        sampler: DistributedSampler[Any] = DistributedSampler(
            loader.dataset,
            num_replicas=self.count,
            rank=self.rank,
            shuffle=isinstance(loader.sampler, RandomSampler),
            drop_last=loader.drop_last,
        )
        return DataLoader(
            loader.dataset,
            batch_size=loader.batch_size,
            sampler=sampler,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            drop_last=loader.drop_last,
            worker_init_fn=loader.worker_init_fn,
            persistent_workers=loader.persistent_workers,
        )


REASONS = ("", "interrupted", "terminated")


class Meeting:
    """Asks after every iteration whether the run is to end; several processes end after the same one.

    They meet for it about twenty times a second, however long an iteration takes.

    Args:
        processes: All of them; ``None`` for one alone.
        asked: Why this process is to end; empty while it is not.
    """

    def __init__(self, processes: Processes | None, asked: Callable[[], str]) -> None:
        self._processes, self._asked = processes, asked
        self._since, self._iterations, self._interval = time.monotonic(), 0, 1

    def __call__(self) -> str:
        if self._processes is None:
            return self._asked()
        self._iterations += 1
        if self._iterations < self._interval:
            return ""
        each = max(time.monotonic() - self._since, 1e-6) / self._iterations
        reason, self._interval = self._processes.most([REASONS.index(self._asked()), max(1, int(0.05 / each))])
        self._since, self._iterations = time.monotonic(), 0
        return REASONS[reason]


def local_device(device: torch.device) -> torch.device:
    """The device of this process among those of its machine."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device
