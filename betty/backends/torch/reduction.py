"""The mean of a gradient over all processes, taken part by part while the backward pass is still at work on the rest.

The parameters are divided into buckets from the last to the first, as that is about the order in which gradients
arrive. A bucket is sent off when all its parts and all buckets before it are there: so all processes send the same
buckets in the same order, whatever order a loss gives them in one of them.

Reference: Li et al. (2020), *PyTorch Distributed: Experiences on Accelerating Data Parallel Training*,
arXiv:2006.15704, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from betty.backends.torch.processes import Processes
from betty.backends.torch.tree import Tree
from betty.ir.passes.exchange import BUCKET

Change = Callable[[int, Tensor], Tensor]
"""(position of a parameter, what a backward pass has found for it) -> the gradient of which the mean is taken."""


class Reduction:
    """One gradient under way.

    Args:
        processes: Whose mean is taken.
        parameters: In the order of the gradient.
        change: Makes the whole gradient of a parameter of what the backward pass gives for it.
    """

    def __init__(self, processes: Processes, parameters: Tree, change: Change) -> None:
        self._processes, self._parameters, self._change = processes, parameters, change
        self._buckets = list(_buckets(parameters))
        self._there: dict[int, Tensor] = {}
        self._sent: list[tuple[Tensor, Any]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take what backward passes find for the parameters meanwhile."""
        hooks = [leaf.register_hook(self._hook(index)) for index, leaf in enumerate(self._parameters)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, index: int) -> Callable[[Tensor], None]:
        def arrived(part: Tensor) -> None:
            with torch.no_grad():
                self._there[index] = self._change(index, part.detach())
            self._send()

        return arrived

    def _send(self) -> None:
        while len(self._sent) < len(self._buckets):
            bucket = self._buckets[len(self._sent)]
            if not all(index in self._there for index in bucket):
                return
            # Which parameters were used is told with the last bucket; it leaves early only where all were.
            used = [torch.ones(len(self._parameters))] if bucket is self._buckets[-1] else []
            self._send_off(bucket, used)

    def _send_off(self, bucket: Sequence[int], used: Sequence[Tensor]) -> None:
        like = self._parameters[bucket[0]]
        parts = [self._there[index].reshape(-1) for index in bucket]
        flat = torch.cat([*parts, *(one.to(like) for one in used)])
        self._sent.append((flat, self._processes.begin_sum(flat)))

    def finish(self, gradient: Tree, idle: set[int]) -> tuple[Tree, set[int]]:
        """The mean, and those parts that no process has used.

        Args:
            gradient: This process's own, for the parts that no backward pass has given.
            idle: Positions of the parts that it has not used.
        """
        for index, part in enumerate(gradient):
            self._there.setdefault(index, part.detach())
        flags = torch.ones(len(gradient))
        flags[list(idle)] = 0
        for bucket in self._buckets[len(self._sent) :]:
            self._send_off(bucket, [flags] if bucket is self._buckets[-1] else [])
        found: dict[int, Tensor] = {}
        for bucket, (flat, pending) in zip(self._buckets, self._sent, strict=True):
            self._processes.end_sum(pending)
            sizes = [self._parameters[index].numel() for index in bucket]
            for index, part in zip(bucket, (flat / self._processes.count)[: sum(sizes)].split(sizes), strict=True):
                found[index] = part.view(self._parameters[index].shape)
        used = self._sent[-1][0][-len(gradient) :]
        mean = tuple(found[index] for index in range(len(gradient)))
        return mean, {index for index in idle if not used[index]} if idle else idle


def _buckets(parameters: Tree) -> Iterator[list[int]]:
    bucket: list[int] = []
    size = 0
    for index in reversed(range(len(parameters))):
        leaf = parameters[index]
        if bucket and (size >= BUCKET or parameters[bucket[0]].dtype != leaf.dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(index)
        size += leaf.numel() * leaf.element_size()
    if bucket:
        yield bucket
