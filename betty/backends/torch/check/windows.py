"""Training in pieces: what happened between two iterations, kept so that it can be done again elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from betty.backends.torch.check.replica import Feed, Groups, hyperparameters, replica, set_hyperparameters
from betty.backends.torch.executor import Around, Executor
from betty.backends.torch.frame import Outcome
from betty.backends.torch.program import Program
from betty.backends.torch.random import RandomState, replaying
from betty.backends.torch.trainer import Trainer
from betty.ir.plan import Plan

FIRST = 0.1
"""Where the first of several points lies, as a part of all iterations."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One event of one problem: what a step drew, and the random state and hyperparameters with which it began."""

    problem: str
    batch: Any
    random: RandomState
    groups: Groups
    act: Literal["step", "look_ahead", "settle"] = "step"


class Recorder(Executor):
    """Writes down every event while ``script`` is a list."""

    script: list[Entry] | None = None

    def step(self, name: str) -> Outcome:
        stream = self.program[name].stream
        self._note(name, "step", stream.peek() if stream is not None and self.script is not None else None)
        return super().step(name)

    def look_ahead(self, name: str) -> None:
        self._note(name, "look_ahead")
        super().look_ahead(name)

    def settle(self, name: str) -> Outcome | None:
        self._note(name, "settle")
        return super().settle(name)

    def _note(self, name: str, act: Literal["step", "look_ahead", "settle"], batch: Any = None) -> None:
        if self.script is not None:
            random = RandomState.capture(self.program.device)
            self.script.append(Entry(name, batch, random, hyperparameters(self.program[name]), act))


@dataclass(frozen=True, eq=False)
class Window:
    """The iterations that lead up to one step of ``target``.

    Args:
        target: The problem whose hypergradient is looked at.
        iteration: The one in which it steps.
        start: The program at the beginning; never changed, copies of it are.
        script: The steps from there up to the target's, which is left out.
        last: The target's step: its micro-batch and random state.
    """

    target: str
    iteration: int
    start: Program
    script: tuple[Entry, ...]
    last: Entry

    def replay(
        self,
        plan: Plan,
        dtype: torch.dtype | None = None,
        around: Around | None = None,
        inside: AbstractContextManager[Any] | None = None,
    ) -> tuple[Program, Executor]:
        """A program that has done the same under ``plan``, and the executor that did it, ``inside`` a context.

        The plan may keep what another one does not, and answer the target otherwise; the target's own steps inside
        the window are made with its hypergradient under that plan.
        """
        program = replica(self.start, dtype)
        executor = Executor(plan, program, around)
        with replaying(None, program.device), inside or nullcontext():
            for entry in self.script:
                hand(program, entry)
                entry.random.restore(program.device)
                getattr(executor, entry.act)(entry.problem)
        return program, executor

    def hypergradient(self, program: Program, executor: Executor) -> Outcome:
        """The target's hypergradient on the micro-batch and with the draws of its own step."""
        hand(program, self.last)
        with replaying(self.last.random, program.device):
            return executor.hypergradient(self.target)


def hand(program: Program, entry: Entry) -> None:
    """Let a problem of a replica draw what ``entry`` drew, with its hyperparameters."""
    problem = program[entry.problem]
    if isinstance(problem.stream, Feed):
        problem.stream.hand(entry.batch)
    set_hyperparameters(problem, entry.groups)


@dataclass(eq=False)
class Schedule:
    """When each target is looked at.

    Args:
        iterations: Of the whole check.
        ends: For every target the iterations in which it steps and is looked at.
        lengths: For every target the iterations that a window spans.
    """

    iterations: int
    ends: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def spread(
        cls, plan: Plan, targets: Sequence[str], spans: Mapping[str, int], iterations: int, points: int
    ) -> Schedule:
        """``points`` at 10 % and in equal distances from there up to the last iteration (of one, the last alone).

        Every point is a step of its target: the one at or before, but never the one before the window fits.
        """
        longest = max((spans[target] for target in targets), default=1)
        iterations = max(iterations, longest + _warm_up(plan))
        ends: dict[str, tuple[int, ...]] = {}
        for target in targets:
            period, least = plan.step(target).period, spans[target] + _warm_up(plan)
            wanted = [max(least, round(part * iterations)) for part in _parts(points)]
            ends[target] = tuple(dict.fromkeys(max(least + -least % period, at - at % period) for at in wanted))
        last = max((end for found in ends.values() for end in found), default=iterations)
        return cls(max(iterations, last), ends, {target: spans[target] for target in targets})


def _parts(points: int) -> list[float]:
    if points == 1:
        return [1.0]
    return [FIRST, *(index / (points - 1) for index in range(1, points))]


def _warm_up(plan: Plan) -> int:
    """Iterations before every problem steps."""
    steps = {step.problem: step.period for step in plan}
    return max((steps[name] * least for step in plan for name, least in step.after), default=0)


def windows(plan: Plan, program: Program, schedule: Schedule, random: RandomState) -> Iterator[Window]:
    """Train ``program`` and stop at every point of the schedule; the windows in the order of their iterations.

    The program is changed; the random states of the process are as before.
    """
    recorder = Recorder(plan, program)
    trainer = Trainer(recorder, record_every=schedule.iterations + 1, random=random)
    events: dict[int, tuple[list[tuple[str, int]], list[str]]] = {}
    for target, ends in schedule.ends.items():
        for end in ends:
            events.setdefault(end - schedule.lengths[target], ([], []))[0].append((target, end))
            events.setdefault(end, ([], []))[1].append(target)
    starts: dict[tuple[str, int], tuple[Program, int]] = {}
    script: list[Entry] = []
    for iteration in sorted(events):
        _advance(trainer, iteration)
        begins, stops = events[iteration]
        for target in stops:
            start, index = starts.pop((target, iteration))
            yield _window(target, iteration, start, script[index:])
        if not starts:
            script.clear()
        for key in begins:
            starts[key] = (replica(program), len(script))
        recorder.script = script if starts else None


def _advance(trainer: Trainer, iteration: int) -> None:
    with warnings.catch_warnings():
        # The scheduler is a copy, and does not find the wrapper that it put around its optimiser's step.
        warnings.filterwarnings("ignore", message="Seems like `optimizer.step")
        if trainer.run(iteration - trainer.iteration) == "interrupted":
            raise KeyboardInterrupt


def _window(target: str, iteration: int, start: Program, script: Sequence[Entry]) -> Window:
    position = max(index for index, entry in enumerate(script) if (entry.problem, entry.act) == (target, "step"))
    return Window(target, iteration, start, tuple(script[:position]), script[position])
