"""One method at one point: its hypergradient, the time of its response and the memory that this takes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from betty.backends.torch.check.replica import replica
from betty.backends.torch.check.windows import Entry, Window, hand
from betty.backends.torch.executor import Executor
from betty.backends.torch.profiler import StorageWatch
from betty.backends.torch.program import Program
from betty.backends.torch.random import replaying
from betty.backends.torch.tree import flatten
from betty.ir.plan import Plan, Respond, Step

REPEATS = 2
"""Timed evaluations, after one that warms up."""
SLOW = 2.0
"""Seconds beyond which a response is timed once."""
PATIENCE = 5.0
"""Seconds beyond which memory is not measured: watching every operation slows small ones many times."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a method gave: the hypergradient as one vector, and what its response took."""

    gradient: Tensor
    seconds: float
    step_seconds: float
    bytes: int | None


@dataclass(eq=False)
class _Meter:
    """Adds up the time of the responses over one edge, and takes the peak of memory during them."""

    edge: str
    device: torch.device
    watch: StorageWatch | None = None
    seconds: float = 0.0
    peak: int = 0
    base: int = 0

    def __call__(self, step: Step, index: int, run: Callable[[], None]) -> None:
        item = step.instructions[index]
        if not isinstance(item, Respond) or item.edge != self.edge:
            run()
            return
        self._begin()
        _wait(self.device)
        start = time.perf_counter()
        run()
        _wait(self.device)
        self.seconds += time.perf_counter() - start
        self._end()

    def _begin(self) -> None:
        if self.watch is not None:
            self.watch.peak = self.watch.live
        elif self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _end(self) -> None:
        if self.watch is not None:
            self.peak = max(self.peak, self.watch.peak)
        elif self.device.type == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device) - self.base)


@dataclass(eq=False)
class Bench:
    """Measures the methods of one edge at one point of training.

    Args:
        window: The steps that lead up to the point.
        edge: Name of the edge whose responses are timed.
        lower: Its lower.
        plan: The plan that keeps nothing but what a response at the last point needs; by it training steps are timed.
    """

    window: Window
    edge: str
    lower: str
    plan: Plan
    _settled: dict[Plan, Program] = field(default_factory=dict)
    _plain: int | None = None
    _pace: Executor | None = None

    def measure(self, plan: Plan, *, looks_back: bool, memory: bool) -> Measured:
        """Evaluate under ``plan``; with ``looks_back``, what its updates cost beyond plain ones counts too."""
        if memory and not self._settled:
            gc.collect()  # cycles that lie about from before would be freed in the middle of a measurement
        return (self._after_replay if looks_back else self._at_the_point)(plan, memory)

    def _at_the_point(self, plan: Plan, memory: bool) -> Measured:
        key = _without_responses(plan)
        if key not in self._settled:
            self._settled[key] = self.window.replay(plan)[0]
        program = self._settled[key]
        executor = Executor(plan, program)
        gradient, first = self._evaluate(program, executor)
        seconds, steps = [first.seconds], [self._step_seconds()]
        for _ in range(REPEATS if first.seconds < SLOW else 0):
            seconds.append(self._evaluate(program, executor)[1].seconds)
            steps.append(self._step_seconds())
        peak = None
        if memory and min(seconds) < PATIENCE:
            with _watching(program.device) as watch:
                peak = self._evaluate(program, executor, watch, _allocated(program.device))[1].peak
        return Measured(gradient, min(seconds), min(steps), peak)

    def _after_replay(self, plan: Plan, memory: bool) -> Measured:
        clock, start = _Clock(self.lower, self.window.start.device), time.perf_counter()
        program, executor = self.window.replay(plan, around=clock)
        gradient, first = self._evaluate(program, executor)
        passed = time.perf_counter() - start
        repeats = REPEATS if first.seconds < SLOW else 0
        seconds = min([first.seconds, *(self._evaluate(program, executor)[1].seconds for _ in range(repeats))])
        del program, executor
        plain = self._plain_clock()
        seconds += max(0.0, clock.seconds - plain.seconds)
        peak = self._held_and_peak(plan) if memory and passed < PATIENCE else None
        return Measured(gradient, seconds, plain.seconds / max(1, plain.steps), peak)

    def _held_and_peak(self, plan: Plan) -> int:
        """The peak during the response on top of what the updates keep for it."""
        device = self.window.start.device
        with _watching(device) as watch:
            pass
        held = _allocated(device)
        program, executor = self.window.replay(plan, inside=watch)
        with watch or nullcontext():
            peak = self._evaluate(program, executor, watch, held)[1].peak
        return max(0, peak - self._held_plain())

    def _plain_clock(self) -> _Clock:
        """Time of the lower's steps in the window under the plain plan; taken anew, the machine's pace changes."""
        clock = _Clock(self.lower, self.window.start.device)
        self.window.replay(self.plan, around=clock)
        return clock

    def _held_plain(self) -> int:
        """Bytes that a replay under the plain plan leaves behind: optimiser states that did not exist before."""
        if self._plain is None:
            device = self.window.start.device
            with _watching(device) as watch:
                pass
            held = _allocated(device)
            program, _ = self.window.replay(self.plan, inside=watch)
            self._plain = watch.live if watch is not None else max(0, _allocated(device) - held)
            del program
        return self._plain

    def _evaluate(
        self, program: Program, executor: Executor, watch: StorageWatch | None = None, held: int = 0
    ) -> tuple[Tensor, _Meter]:
        meter = _Meter(self.edge, program.device, watch, base=held)
        executor.around = meter
        outcome = self.window.hypergradient(program, executor)
        return flatten(outcome.gradient).detach().double(), meter

    def _step_seconds(self) -> float:
        """Time of one plain training step of the lower from here, on a copy that goes on with it."""
        entry = self._last_of_lower()
        if entry is None:
            return float("nan")
        if self._pace is None:
            copied = replica(self.window.replay(self.plan)[0])
            hand(copied, entry)
            self._pace = Executor(self.plan, copied)
        clock = _Clock(self.lower, self._pace.program.device)
        self._pace.around = clock
        with replaying(None, clock.device):
            for _ in range(REPEATS):
                clock.seconds = 0.0
                self._pace.step(self.lower)
        return clock.seconds

    def _last_of_lower(self) -> Entry | None:
        return next(
            (entry for entry in reversed(self.window.script) if (entry.problem, entry.act) == (self.lower, "step")),
            None,
        )


@dataclass(eq=False)
class _Clock:
    """Adds up the time of all instructions of one problem."""

    problem: str
    device: torch.device
    seconds: float = 0.0
    steps: int = 0

    def __call__(self, step: Step, index: int, run: Callable[[], None]) -> None:
        if step.problem != self.problem:
            run()
            return
        _wait(self.device)
        start = time.perf_counter()
        run()
        _wait(self.device)
        self.seconds += time.perf_counter() - start
        self.steps += index == 0


def _without_responses(plan: Plan) -> Plan:
    """Plans that are equal in this keep the same things, so that one replay serves them all."""
    bare = tuple(
        replace(
            step,
            instructions=tuple(
                replace(item, estimate=None) for item in step.instructions if not isinstance(item, Respond)
            ),
        )
        for step in plan
    )
    return replace(plan, steps=bare)


@contextmanager
def _watching(device: torch.device) -> Iterator[StorageWatch | None]:
    if device.type == "cuda":
        yield None
        return
    with StorageWatch() as watch:
        yield watch


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
