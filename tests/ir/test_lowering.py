"""What the plan keeps for responses: micro-batches, and updates on a tape."""

from __future__ import annotations

import pytest

from betty.ir.graph import Graph, Problem
from betty.ir.methods import Method, preset
from betty.ir.plan import Draw, Plan, Update
from tests.ir.programs import BOTH, CG, DOWN, UP, edge
from tests.ir.rationals import lowered


def unrolled(steps: int) -> Method:
    return preset("unrolled", {"steps": steps})


def two_uppers(left: Method, right: Method) -> Plan:
    names = ("low", "left", "right")
    edges = (edge("left", "low", BOTH, left), edge("right", "low", BOTH, right))
    return lowered(Graph("g", tuple(Problem(name=name, optimizer="SGD", accumulation=2) for name in names), edges))


def kept(plan: Plan, problem: str) -> tuple[int, int]:
    """(micro-batches, updates) that a problem keeps."""
    draw, *_, update = plan.step(problem).instructions
    assert isinstance(draw, Draw)
    assert isinstance(update, Update)
    return draw.keep, update.tape


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (unrolled(7), unrolled(3), (0, 7)),
        (unrolled(3), unrolled(7), (0, 7)),
        (unrolled(3), CG, (2, 3)),
        (CG, CG, (2, 0)),
    ],
    ids=["longer first", "longer last", "tape and solve", "solves"],
)
def test_a_problem_keeps_what_its_most_demanding_response_needs(
    left: Method, right: Method, expected: tuple[int, int]
) -> None:
    plan = two_uppers(left, right)
    assert kept(plan, "low") == expected
    assert kept(plan, "left") == (0, 0)


def test_no_steps_mean_all_updates_since_the_targets_last_step() -> None:
    """``low`` makes 3 updates of 2 micro-batches for one step of ``mid``, and ``mid`` makes 4 for one of ``top``."""
    problems = (
        Problem(name="low", optimizer="SGD", unroll=3, accumulation=2),
        Problem(name="mid", optimizer="SGD", unroll=4),
        Problem(name="top", optimizer="SGD"),
    )
    edges = (
        edge("mid", "low", UP, unrolled(0)),
        edge("top", "mid", UP, unrolled(0)),
        edge("top", "low", DOWN, unrolled(0)),
    )
    plan = lowered(Graph("g", problems, edges))
    steps = {one.problem: one.method.solver["steps"] for one in plan.step("top").responses}
    assert steps == {"mid": 4, "low": 12}
    assert [kept(plan, name)[1] for name in ("low", "mid", "top")] == [12, 4, 0]


def test_methods_that_come_to_the_same_share_a_solve() -> None:
    """``shared`` is stepped twice for one step of ``top``: no steps, and two steps, are then the same."""
    names = ("base", "shared", "left", "right", "top")
    edges = (
        edge("shared", "base", UP, CG),
        edge("left", "shared", UP, unrolled(0)),
        edge("right", "shared", UP, unrolled(2)),
        edge("top", "left", UP, CG),
        edge("top", "right", UP, CG),
        edge("top", "base", DOWN, CG),
    )
    problems = (Problem(name=name, optimizer="SGD", unroll=2 if name == "shared" else 1) for name in names)
    solves = [one.problem for one in lowered(Graph("g", tuple(problems), edges)).step("top").responses]
    assert sorted(solves) == ["base", "left", "right", "shared"]
