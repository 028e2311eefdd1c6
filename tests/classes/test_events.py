"""The order of events of a class program: which problem steps when, and which hooks are called around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from betty import Config, Engine, EngineConfig, ImplicitProblem

Event = tuple[str, str]


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.ones(2))

    def forward(self) -> Tensor:
        return self.at


class Told(ImplicitProblem):
    """Pulls its point towards those of the others, and writes down what happens to it."""

    log_of_events: list[Event]
    others: list[str]

    def training_step(self, batch: float) -> Tensor:
        self.log_of_events.append(("loss", self.name))
        pulls = [((self() - getattr(self, name)()) ** 2).sum() for name in self.others]
        return ((self() - batch) ** 2).sum() + sum(pulls)

    def on_inner_loop_start(self) -> None:
        self.log_of_events.append(("loop", self.name))

    def param_callback(self) -> None:
        self.log_of_events.append(("update", self.name))


@dataclass(frozen=True)
class Timing:
    unroll: int = 1
    accumulation: int = 1
    warmup: int = 0


def program(timings: Sequence[Timing], pairs: Sequence[tuple[int, int]]) -> tuple[Engine, list[Event]]:
    """Problems p0, p1, ...; a pair is a lower and an upper that read each other."""
    log: list[Event] = []
    problems = []
    for index, timing in enumerate(timings):
        config = Config(
            unroll_steps=timing.unroll, gradient_accumulation=timing.accumulation, warmup_steps=timing.warmup
        )
        module = Point()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        problem = Told(f"p{index}", config, module, optimizer, train_data_loader=[float(index)])
        problem.log_of_events = log
        problem.others = [f"p{b if a == index else a}" for a, b in pairs if index in (a, b)]
        problems.append(problem)
    down: dict[Any, list[Any]] = {}
    up: dict[Any, list[Any]] = {}
    for lower, upper in pairs:
        down.setdefault(problems[upper], []).append(problems[lower])
        up.setdefault(problems[lower], []).append(problems[upper])
    engine = Engine(problems=problems, dependencies={"u2l": down, "l2u": up}, config=EngineConfig(train_iters=1))
    log.clear()
    return engine, log


class Expected:
    """The rules of the first Betty, in so many words."""

    def __init__(self, timings: Sequence[Timing], pairs: Sequence[tuple[int, int]]) -> None:
        self.timings, self.log = timings, list[Event]()
        self.parents = {i: [u for low, u in pairs if low == i] for i in range(len(timings))}
        self.children = {i: [low for low, u in pairs if u == i] for i in range(len(timings))}
        self.count = dict.fromkeys(range(len(timings)), 0)
        self.ready: Mapping[int, dict[int, bool]] = {
            i: dict.fromkeys(self.children[i], False) for i in range(len(timings))
        }

    def iteration(self) -> None:
        for index in range(len(self.timings)):
            if not self.children[index]:
                self.step(index)

    def step(self, index: int) -> None:
        if not all(self.ready[index].values()):
            return
        timing, name = self.timings[index], f"p{index}"
        loop = timing.unroll * timing.accumulation
        if self.count[index] == 0 or (self.count[index] > timing.warmup and self.count[index] % loop == 0):
            self.log.append(("loop", name))
        self.log.append(("loss", name))
        self.count[index] += 1
        if self.count[index] % timing.accumulation == 0:
            self.log.append(("update", name))
        for child in self.children[index]:
            self.ready[index][child] = False
        if self.count[index] % loop == 0 and self.count[index] > timing.warmup:
            for parent in self.parents[index]:
                self.ready[parent][index] = True
                self.step(parent)


timings = st.builds(Timing, st.integers(1, 3), st.integers(1, 2), st.integers(0, 5))


@st.composite
def arrangements(draw: st.DrawFn) -> tuple[list[Timing], list[tuple[int, int]]]:
    """Two to four problems, each above at least one before it or a leaf."""
    count = draw(st.integers(2, 4))
    pairs = []
    for upper in range(1, count):
        lowers = draw(st.sets(st.integers(0, upper - 1), min_size=upper == count - 1, max_size=2))
        pairs += [(lower, upper) for lower in sorted(lowers)]
    return [draw(timings) for _ in range(count)], pairs


@settings(max_examples=25, deadline=None)
@given(arrangements(), st.integers(5, 25))
def test_events_come_in_the_order_of_the_first_betty(
    arrangement: tuple[list[Timing], list[tuple[int, int]]], iterations: int
) -> None:
    engine, log = program(*arrangement)
    expected = Expected(*arrangement)
    for _ in range(iterations):
        engine.train_step()
        expected.iteration()
    assert log == expected.log
    assert [problem.count for problem in engine.problems] == list(expected.count.values())


def test_ready_is_for_each_lower_whether_its_unroll_is_complete() -> None:
    engine, _ = program([Timing(unroll=1), Timing(unroll=2), Timing()], [(0, 2), (1, 2)])
    upper = engine.problems[2]
    assert upper.ready == [False, False]
    engine.train_step()
    assert upper.ready == [True, False] and not upper.check_ready() and upper.count == 0
    upper.step()
    assert upper.count == 0, "a problem that is not ready does not step"
    engine.train_step()
    assert upper.ready == [False, False] and upper.count == 1


def test_run_and_train_step_go_on_from_one_another() -> None:
    engine, log = program([Timing(unroll=2), Timing()], [(0, 1)])
    engine.run(3)
    engine.train_step()
    engine.run(2)
    assert [name for kind, name in log if kind == "loss"] == ["p0", "p0", "p1", "p0", "p0", "p1", "p0", "p0", "p1"]
    assert engine.global_step == 5


def test_set_dependency_takes_effect_and_counters_stay() -> None:
    engine, log = program([Timing(), Timing()], [(0, 1)])
    engine.run(2)
    lower, upper = engine.problems
    engine.set_dependency({"u2l": {}, "l2u": {}})
    log.clear()
    with pytest.warns(UserWarning, match="which the dependencies do not tell"):
        engine.run(2)
    assert [name for kind, name in log if kind == "loss"] == ["p0", "p1", "p0", "p1"]
    assert engine.leaves == [lower, upper] and (lower.count, upper.count) == (4, 4)


def test_in_evaluation_mode_steps_do_not_pass_on() -> None:
    engine, log = program([Timing(), Timing()], [(0, 1)])
    engine.eval()
    engine.train_step()
    assert ("loss", "p1") not in log
    engine.train()
    engine.train_step()
    assert ("loss", "p1") in log
