"""Measured time and memory of every instruction."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from betty.backends.torch.processes import Traffic
from betty.backends.torch.program import Program
from betty.ir.plan import Step

FIRST_TIMED = 2
"""Calls of an instruction that warm up; not counted in its time."""
MEMORY_CALL = 1
"""The call of an instruction whose memory is measured (the second); measuring slows it, so it is not timed."""


@dataclass
class Reading:
    """What was measured of one instruction: mean seconds of a call, peak bytes above what was held before."""

    total: float = 0.0
    calls: int = 0
    timed: int = 0
    rough: bool = False
    """Whether the time is that of the first call alone."""
    bytes: int = 0
    met: int = 0
    """Operations of all processes in the last call, ..."""
    sent: int = 0
    """... and the bytes that this one has given to them."""

    @property
    def seconds(self) -> float:
        return self.total / self.timed if self.timed else 0.0


@dataclass
class Profiler:
    """Measures around instructions; pass it to the executor as ``around``.

    Time is wall-clock with the device synchronised on both sides. Memory is the peak of tensor storage allocated
    during the instruction: on CUDA by the caching allocator's counter, elsewhere by watching every operation.
    """

    device: torch.device
    traffic: Traffic | None = None
    """What is exchanged with other processes."""
    readings: dict[tuple[str, int], Reading] = field(default_factory=dict)
    disturbed: bool = False
    """Whether something slows the run down at present, so that its time is not counted."""

    def __call__(self, step: Step, index: int, run: Callable[[], None]) -> None:
        reading = self.readings.setdefault((step.problem, index), Reading())
        before = (self.traffic.calls, self.traffic.bytes) if self.traffic else (0, 0)
        if reading.calls == MEMORY_CALL:
            reading.bytes = self._peak(run)
        else:
            self._time(reading, run)
        reading.calls += 1
        if (
            self.traffic is not None and self.traffic.calls > before[0]
        ):  # micro-batches before the last exchange nothing
            reading.met, reading.sent = self.traffic.calls - before[0], self.traffic.bytes - before[1]

    def _time(self, reading: Reading, run: Callable[[], None]) -> None:
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        taken = time.perf_counter() - start
        # An instruction that runs only once is still worth a number.
        if reading.calls == 0:
            reading.total, reading.timed, reading.rough = taken, 1, True
        elif reading.calls >= FIRST_TIMED and not self.disturbed:
            known = (0.0, 0) if reading.rough else (reading.total, reading.timed)
            reading.total, reading.timed, reading.rough = known[0] + taken, known[1] + 1, False

    def _peak(self, run: Callable[[], None]) -> int:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            run()
            self._wait()
            peak: int = torch.cuda.max_memory_allocated(self.device) - before
            return peak
        watch = StorageWatch()
        with watch:
            run()
        return watch.peak

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def held_bytes(program: Program) -> int:
    """Bytes of the parameters, buffers, gradients and optimiser states that are there at present."""
    tensors: dict[int, Tensor] = {}
    for problem in program.problems.values():
        found = [*problem.module.parameters(), *problem.module.buffers()]
        found += [leaf.grad for leaf in problem.module.parameters() if leaf.grad is not None]
        states = problem.optimizer.state.values() if problem.optimizer is not None else ()
        found += [leaf for state in states for leaf in state.values() if isinstance(leaf, Tensor)]
        tensors |= {id(leaf): leaf for leaf in found}
    return sum(leaf.numel() * leaf.element_size() for leaf in tensors.values())


class StorageWatch(TorchDispatchMode):
    """Peak bytes of the tensor storages that come to life while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: int = 0
        self.peak: int = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {item.untyped_storage()._cdata for item in tree_leaves((args, kwargs)) if _is_dense(item)}
        out = func(*args, **(kwargs or {}))
        for item in tree_leaves(out):
            if _is_dense(item) and item.untyped_storage()._cdata not in given:
                self._count(item)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _is_dense(item: Any) -> bool:
    return isinstance(item, Tensor) and item.layout is torch.strided
