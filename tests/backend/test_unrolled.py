"""The hypergradient from the tape against float64 central differences of re-running the same updates."""

from __future__ import annotations

import pytest
import torch

from tests.support.compare import assert_close
from tests.support.optimizers import OPTIMIZER_CASES, OptimizerCase
from tests.support.unrolling import GROUPS, Lower, central_difference, hypergradient

SIZE = GROUPS + 1
# Updates differentiated, micro-batches an update, clipping, updates of torch before, kept updates that are forgotten.
WINDOWS = [(1, 1, None, 2, 0), (2, 1, 0.3, 1, 2), (3, 2, None, 0, 0), (4, 3, 0.3, 2, 0), (6, 1, None, 0, 1)]
# Every optimiser in two of the windows, every window with some of all optimisers.
CASES = [
    (case, WINDOWS[(index + shift) % len(WINDOWS)]) for index, case in enumerate(OPTIMIZER_CASES) for shift in (0, 2)
]
PLAIN = OPTIMIZER_CASES[0]


def name_of(value: object) -> str:
    return "steps{}-every{}-clip{}-before{}-kept{}".format(*value) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("case", "window"), CASES, ids=name_of)
def test_equals_central_differences(case: OptimizerCase, window: tuple[int, int, float | None, int, int]) -> None:
    steps, accumulation, clipping, before, forgotten = window
    toy = Lower(case, accumulation, clipping)
    toy.torch_steps(before)
    start = toy.twin()
    built = toy.live(steps)
    built.follow(["low"] * (forgotten + steps) * accumulation)
    start.torch_steps(forgotten)
    exact = central_difference(lambda change: start.loss_after(steps, change), SIZE)
    assert_close(hypergradient(built), exact, 1e-6)


def test_fewer_updates_than_asked_for_are_all_differentiated() -> None:
    toy = Lower(PLAIN)
    start, built = toy.twin(), toy.live(steps=5)
    built.follow(["low"] * 3)
    exact = central_difference(lambda change: start.loss_after(3, change), SIZE)
    assert_close(hypergradient(built), exact, 1e-6)


@pytest.mark.parametrize("case", OPTIMIZER_CASES[::5], ids=str)
def test_the_window_moves_on_after_the_upper_has_stepped(case: OptimizerCase) -> None:
    toy = Lower(case)
    built = toy.live(steps=2)
    built.follow(["low", "low", "up", "low", "up"])
    toy.done = 3
    start = toy.twin()
    built.follow(["low", "low"])
    exact = central_difference(lambda change: start.loss_after(2, change), SIZE)
    assert_close(hypergradient(built), exact, 1e-6)


def test_an_upper_that_someone_else_has_moved_is_read_as_it_stands() -> None:
    """A callback may clamp or project the upper's parameters without a step of the upper."""
    toy = Lower(PLAIN)
    built = toy.live(steps=2)
    built.follow(["low"])
    with torch.no_grad():
        for leaf in toy.up.parameters():
            leaf.add_(0.5)
    toy.done = 1
    start = toy.twin()
    built.follow(["low", "low"])
    start_after = start.twin()
    start_after.torch_steps(2)
    for one, other in zip(toy.low.parameters(), start_after.low.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    exact = central_difference(lambda change: start.loss_after(2, change), SIZE)
    assert_close(hypergradient(built), exact, 1e-6)


def test_the_upper_may_step_in_the_middle_of_an_accumulated_update() -> None:
    """What each micro-batch has read is kept with the version it had; all of it gains."""
    toy = Lower(PLAIN, accumulation=2)
    built = toy.live(steps=1)
    built.follow(["low", "low", "low", "up", "low"])
    readings = built.program["low"].tape[-1].readings
    assert [reading.version for reading in readings] == [0, 1]
    assert bool(torch.isfinite(hypergradient(built)).all())
