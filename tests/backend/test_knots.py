"""Three levels that read each other: the nested formula of the adjoints, term by term."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from betty.ir.methods import Method
from tests.support.compare import assert_close, flat
from tests.support.dense import exact_hypergradient, nested_hypergradient
from tests.support.methods import METHOD_CASES, MethodCase
from tests.support.quadratics import BOTH, DOWN, UP, Link, QuadraticProgram, build, programs, random_points

CURVED = [case for case in METHOD_CASES if case.solver in {"cg", "neumann"}]
KNOTS: dict[str, tuple[Link, ...]] = {
    "tower": (("mid", "low", BOTH), ("top", "mid", BOTH)),
    "tower with a skip": (("mid", "low", BOTH), ("top", "mid", BOTH), ("top", "low", BOTH)),
    "tower, top acts on low": (("mid", "low", BOTH), ("top", "mid", BOTH), ("top", "low", DOWN)),
    "tower, top reads low": (("mid", "low", BOTH), ("top", "mid", BOTH), ("top", "low", UP)),
}
knotted = programs(st.sampled_from(sorted(KNOTS)).map(KNOTS.__getitem__))


@pytest.mark.parametrize("case", CURVED, ids=str)
@settings(max_examples=12)
@given(program=knotted, seed=st.integers(0, 99))
def test_a_knot_of_three_levels_follows_the_nested_formula(
    case: MethodCase, program: QuadraticProgram, seed: int
) -> None:
    points = random_points(program, seed)
    built = build(program, case.method(program), points)
    found = flat(built.executor.hypergradient("top").gradient)
    assert_close(found, nested_hypergradient(program, points), 1e-6)


@settings(max_examples=12)
@given(program=knotted, seed=st.integers(0, 99))
def test_the_middle_of_a_knot_holds_its_upper_still(program: QuadraticProgram, seed: int) -> None:
    """Seen from ``mid`` there is no knot: only ``low`` answers, and exactly."""
    points, method = random_points(program, seed), CURVED[0].method(program)
    built = build(program, method, points)
    found = flat(built.executor.hypergradient("mid").gradient)
    assert_close(found, exact_hypergradient(program, points, "mid"), 1e-9)


@settings(max_examples=12)
@given(program=knotted, seed=st.integers(0, 99))
def test_a_knot_solves_at_most_twice_for_each_problem(program: QuadraticProgram, seed: int) -> None:
    built = build(program, CURVED[0].method(program), random_points(program, seed))
    answered = [response.problem for response in built.plan.step("top").responses]
    assert answered.count("mid") == 1
    assert answered.count("low") <= 2


@settings(max_examples=8)
@given(program=knotted, seed=st.integers(0, 99))
def test_different_methods_in_a_knot_are_used_where_they_belong(program: QuadraticProgram, seed: int) -> None:
    """Exact solves by different methods agree, so mixing them must not change the value."""
    points = random_points(program, seed)
    cases = [case for case in CURVED if case.product == "reverse"]
    methods: dict[tuple[str, str], Method] = {
        (upper, lower): cases[index % 2].method(program) for index, (upper, lower, _) in enumerate(program.links)
    }
    found = flat(build(program, methods, points).executor.hypergradient("top").gradient)
    assert_close(found, nested_hypergradient(program, points), 1e-6)
