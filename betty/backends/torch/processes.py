"""Several processes that train one program: gradients are averaged, and what one of them finds out is told to all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

from betty.backends.torch.errors import RunError
from betty.backends.torch.tree import Tree

PATIENCE = timedelta(days=30)
"""How long processes wait for what one of them does alone, such as a validation."""


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

    @classmethod
    def joined(cls, backend: str, seconds: float, device: torch.device) -> Processes | None:
        """The processes that ``torchrun`` has started, this one among them; ``None`` where it is alone.

        A process group that the program has made itself is used as it is.

        Args:
            backend: ``nccl``, ``gloo`` or ``mpi``; on a CPU ``nccl`` gives way to ``gloo``.
            seconds: Time limit of an operation of all processes.
            device: Where this process runs.

        Raises:
            RunError: The processes do not find one another.
        """
        if not dist.is_available() or (int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_initialized()):
            return None
        if not dist.is_initialized():
            chosen = "gloo" if backend == "nccl" and device.type != "cuda" else backend
            try:
                dist.init_process_group(chosen, timeout=timedelta(seconds=seconds))
            except (RuntimeError, ValueError) as error:
                raise RunError(f"the processes cannot form a group by {chosen}: {error}") from error
        if dist.get_world_size() == 1:
            return None
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=PATIENCE))

    def averaged(self, tree: Tree) -> Tree:
        """The mean of a tree over all processes, in one operation for each dtype; a graph that it has is kept."""
        found: list[Tensor] = [leaf.detach() for leaf in tree]
        for dtype in {leaf.dtype for leaf in found}:
            places = [index for index, leaf in enumerate(found) if leaf.dtype == dtype]
            flat = torch.cat([found[index].reshape(-1) for index in places])
            dist.all_reduce(flat)
            flat /= self.count
            for index, part in zip(places, flat.split([found[index].numel() for index in places]), strict=True):
                found[index] = part.view(found[index].shape)
        pairs = zip(tree, found, strict=True)
        return tuple(leaf + (mean - leaf.detach()) if leaf.requires_grad else mean for leaf, mean in pairs)

    def alike(self, module: nn.Module) -> None:
        """Give a module the parameters and buffers that it has in the first process."""
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor, src=0)

    def told(self, value: Any) -> Any:
        """What the first process has found; the others wait for it as long as it takes."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.patient)
        return box[0]

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


def local_device(device: torch.device) -> torch.device:
    """The device of this process among those of its machine."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device
