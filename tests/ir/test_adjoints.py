"""Adjoints and responses, evaluated in exact arithmetic and counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from betty.ir.graph import Edge, Graph, Problem
from betty.ir.passes.adjoints import hypergradients
from betty.ir.passes.levels import Levels
from betty.ir.passes.schedule import Schedule
from betty.ir.plan import Plan
from betty.ir.records import Flow
from tests.ir.programs import BOTH, CG, DOWN, NEUMANN, UP, diamonds, edge
from tests.ir.rationals import Quadratics, followed, has_knot, lowered, quadratics, total_derivative
from tests.ir.strategies import programs, programs_without_knots


def one_method(graph: Graph) -> Graph:
    return graph.map(edge=lambda one: replace(one, method=CG))


@given(data=st.data(), graph=programs_without_knots())
def test_without_knots_nothing_is_dropped(data: st.DataObject, graph: Graph) -> None:
    values = data.draw(quadratics(graph))
    for step in lowered(graph):
        assert not has_knot(graph, step.problem)
        assert followed(step, values) == total_derivative(graph, values, step.problem)


@given(data=st.data(), graph=programs())
def test_targets_without_knots_among_others(data: st.DataObject, graph: Graph) -> None:
    """Flows of any kind: whatever holds above a target must not change its own hypergradient."""
    values = data.draw(quadratics(graph))
    free = [step for step in lowered(graph) if step.responses and not has_knot(graph, step.problem)]
    assume(free)
    for step in free:
        assert followed(step, values) == total_derivative(graph, values, step.problem)


def tower(skip: Flow | None) -> Graph:
    edges = [edge("mid", "low", BOTH, CG), edge("top", "mid", BOTH, NEUMANN)]
    skips = [edge("top", "low", skip, CG)] if skip else []
    return Graph("tower", tuple(Problem(name=name) for name in ("low", "mid", "top")), (*edges, *skips))


def nested(values: Quadratics) -> Fraction:
    """Three levels as functions of what stands above them.

    low(mid, top) solves ``h_l l + c_lm m + c_lt t = 0``, so ``∂l/∂m = -c_lm/h_l`` and ``∂l/∂t = -c_lt/h_l``.
    mid(top) solves ``h_m m + c_mt t + c_ml l(m, t) = 0``. Differentiating by t with ``∂l/∂m`` left aside (it would
    turn the curvature into ``h_m + c_ml ∂l/∂m``, but a response's Hessian is the problem's own ``h_m``):
    ``h_m m' + c_mt + c_ml ∂l/∂t = 0``. At last ``l' = ∂l/∂t + ∂l/∂m m'``, and the total derivative of top's loss is
    ``∂L/∂t + ∂L/∂m m' + ∂L/∂l l'``.
    """
    h, none = values.curvature, Fraction(0)
    c, partial = values.coupling, values.partial
    low_by_mid = -c["low", "mid"] / h["low"]
    low_by_top = -c.get(("low", "top"), none) / h["low"]
    mid_by_top = -(c["mid", "top"] + c["mid", "low"] * low_by_top) / h["mid"]
    low_moves = low_by_top + low_by_mid * mid_by_top
    moves = partial["top", "mid"] * mid_by_top + partial.get(("top", "low"), none) * low_moves
    return partial["top", "top"] + moves


@pytest.mark.parametrize("skip", [None, BOTH, UP, DOWN])
@given(data=st.data())
def test_knot_of_three_levels(skip: Flow | None, data: st.DataObject) -> None:
    graph = tower(skip)
    values = data.draw(quadratics(graph))
    assert followed(lowered(graph).step("top"), values) == nested(values)


def test_knot_of_three_levels_solves_low_twice() -> None:
    """Once for top, to which low answers itself, and once as part of the response of mid."""
    found = [(one.problem, one.slot) for one in lowered(tower(BOTH)).step("top").responses]
    assert found == [("low", "low"), ("mid", "mid"), ("low", "low'")]


@given(data=st.data(), graph=programs())
def test_every_slot_is_filled_before_it_is_consumed(data: st.DataObject, graph: Graph) -> None:
    values = data.draw(quadratics(graph))
    for step in lowered(graph):
        followed(step, values)


@given(graph=programs())
def test_each_adjoint_is_solved_for_once(graph: Graph) -> None:
    for found in hypergradients(Schedule().apply(Levels().apply(graph))).values():
        solves = Counter((one.slot.problem, one.slot.inner, one.method) for one in found.responses)
        assert set(solves.values()) <= {1}


@given(graph=programs())
def test_work_grows_with_the_edges(graph: Graph) -> None:
    graph = one_method(graph)
    readings = sum(len(graph.reads(problem.name)) for problem in graph.problems)
    for step in lowered(graph):
        assert sum(len(one.into) for one in step.responses) <= 2 * readings
        assert len(step.responses) <= 2 * len(graph.problems)


@pytest.mark.parametrize("count", [1, 2, 10, 40])
def test_diamonds_in_a_row_take_linear_work(count: int) -> None:
    """Two to the power of ``count`` paths lead from the bottom to the top."""
    graph = diamonds(count)
    responses = lowered(graph).step("top").responses
    assert len(graph.edges) == 4 * count + 2
    assert len(responses) == 3 * count + 1
    assert sum(len(one.into) for one in responses) == 4 * count + 1


def plan_of(*edges: Edge) -> Plan:
    names = sorted({name for one in edges for name in (one.upper, one.lower)})
    return lowered(Graph("g", tuple(Problem(name=name, optimizer="SGD") for name in names), edges))


def test_the_targets_own_edge_decides_the_method() -> None:
    plan = plan_of(edge("b", "a", UP, CG), edge("c", "b", UP, CG), edge("c", "a", DOWN, NEUMANN))
    (of_b, of_a) = plan.step("c").responses
    assert (of_b.method, of_b.edge) == (CG, "c -> b")
    assert (of_a.method, of_a.edge) == (NEUMANN, "c -> a")


def test_the_readers_edge_decides_where_the_target_has_none() -> None:
    plan = plan_of(
        edge("b", "a", UP, NEUMANN), edge("c", "b", UP, CG), edge("a", "_", BOTH, CG), edge("c", "_", DOWN, CG)
    )
    assert [(one.problem, one.edge) for one in plan.step("c").responses] == [
        ("b", "c -> b"),
        ("a", "b -> a"),
        ("_", "c -> _"),
    ]


def test_adjoints_that_lead_nowhere_are_left_out() -> None:
    """``idle`` reads nothing of the target, nor does anything that it reads."""
    plan = plan_of(edge("top", "low", BOTH, CG), edge("top", "idle", UP, CG), edge("idle", "floor", UP, CG))
    assert [one.problem for one in plan.step("top").responses] == ["low"]


def test_a_problem_that_acts_on_nothing_has_no_responses() -> None:
    plan = plan_of(edge("top", "low", UP, CG))
    assert plan.step("top").responses == ()
    assert all(item.op != "differentiate" or item == type(item)() for item in plan.step("top").instructions)
