"""Every method against the hypergradient it stands for, on generated quadratic programs of any acyclic shape."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.ir.methods import Method
from tests.support.compare import assert_close, assert_same, flat
from tests.support.dense import answered_hypergradient, exact_hypergradient, stands_for, stationary
from tests.support.methods import BIASED, IMPLICIT_CASES, METHOD_CASES, MethodCase
from tests.support.programs import Built
from tests.support.quadratics import LAYOUTS, QuadraticProgram, any_program, build, generate, programs, random_points

STEPS = 40  # (condition - 1) / (condition + 1) <= 0.5, and 0.5 to the 40 is 1e-12

few = settings(max_examples=10)


def settled(
    program: QuadraticProgram, methods: Method | Mapping[tuple[str, str], Method], dtype: torch.dtype = torch.float64
) -> Built:
    """The live program, all below ``top`` at its solution; where a trajectory is kept, by steps that lead there."""
    points = stationary(program, random_points(program, seed=0))
    built = build(program.cast(dtype), methods, {name: point.to(dtype) for name, point in points.items()})
    for name in program.below("top"):
        if looks_back(built, name):
            scatter(built, name)
            built.follow([name] * STEPS)
    return built


def looks_back(built: Built, name: str) -> bool:
    """Whether something of the problem's updates is kept."""
    problem = built.program[name]
    return bool(problem.tape.maxlen or problem.history.length or problem.tangents)


def scatter(built: Built, name: str) -> None:
    """Move a problem away from its solution, so that its steps have a way to go."""
    with torch.no_grad():
        for parameter in built.program[name].parameters:
            parameter.add_(torch.ones_like(parameter))


def points_of(built: Built) -> dict[str, Tensor]:
    return {name: flat(problem.parameters).double() for name, problem in built.program.problems.items()}


def found_in(built: Built, target: str = "top") -> Tensor:
    return flat(built.executor.hypergradient(target).gradient).double()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("layout", ["chain with a skip", "diamond", "two uppers over two lowers"])
@pytest.mark.parametrize("case", METHOD_CASES, ids=str)
def test_reaches_what_the_method_stands_for(case: MethodCase, layout: str, dtype: torch.dtype) -> None:
    program = generate(LAYOUTS[layout], sizes=(3, 2, 4), seed=5)
    method = case.method(program, STEPS)
    built = settled(program, method, dtype)

    def inverse_of(name: str, reader: str) -> Tensor:
        return stands_for(method, program.problems[name].curvature)

    exact = answered_hypergradient(program, points_of(built), inverse_of)
    assert_close(found_in(built), exact, case.rtol[dtype])


@pytest.mark.parametrize("case", [case for case in METHOD_CASES if case.solver not in BIASED], ids=str)
@few
@given(program=any_program)
def test_reaches_the_exact_hypergradient(case: MethodCase, program: QuadraticProgram) -> None:
    built = settled(program, case.method(program, STEPS))
    assert_close(found_in(built), exact_hypergradient(program, points_of(built)), 1e-6)


@pytest.mark.parametrize("case", [case for case in METHOD_CASES if case.solver in BIASED], ids=str)
@few
@given(program=any_program)
def test_biased_inverses_reach_what_they_stand_for(case: MethodCase, program: QuadraticProgram) -> None:
    method = case.method(program)
    built = settled(program, method)

    def inverse_of(name: str, reader: str) -> Tensor:
        return stands_for(method, program.problems[name].curvature)

    assert_close(found_in(built), answered_hypergradient(program, points_of(built), inverse_of), 1e-6)


@settings(max_examples=20)
@given(program=any_program, data=st.data())
def test_methods_may_differ_from_edge_to_edge(program: QuadraticProgram, data: st.DataObject) -> None:
    """The target's own edge decides how a problem answers, and the reader's edge where the target has none."""
    methods = {
        (upper, lower): data.draw(st.sampled_from(METHOD_CASES)).method(program, STEPS)
        for upper, lower, _ in program.links
    }
    built = settled(program, methods)

    def inverse_of(name: str, reader: str) -> Tensor:
        method = methods.get(("top", name)) or methods[reader, name]
        return stands_for(method, program.problems[name].curvature)

    assert_close(found_in(built), answered_hypergradient(program, points_of(built), inverse_of), 1e-6)


@few
@given(program=programs(st.just(LAYOUTS["two uppers"])), cases=st.permutations(IMPLICIT_CASES))
def test_uppers_of_one_lower_choose_apart(program: QuadraticProgram, cases: list[MethodCase]) -> None:
    methods = {("top", "low"): cases[0].method(program), ("other", "low"): cases[1].method(program)}
    built = settled(program, methods)
    for target in ("top", "other"):
        matrix = stands_for(methods[target, "low"], program.problems["low"].curvature)
        exact = answered_hypergradient(program, points_of(built), lambda name, reader, m=matrix: m, target)  # type: ignore[misc]
        assert_close(found_in(built, target), exact, 1e-6)


@few
@given(program=any_program, steps=st.integers(0, 6))
def test_a_short_neumann_series_is_that_polynomial(program: QuadraticProgram, steps: int) -> None:
    case = next(case for case in METHOD_CASES if str(case) == "neumann+reverse")
    method = case.method(program, steps)
    built = settled(program, method)

    def inverse_of(name: str, reader: str) -> Tensor:
        return stands_for(method, program.problems[name].curvature)

    assert_close(found_in(built), answered_hypergradient(program, points_of(built), inverse_of), 1e-9)


@few
@given(program=any_program, steps=st.integers(1, 6))
def test_a_short_unrolled_response_is_the_neumann_series_of_its_steps(program: QuadraticProgram, steps: int) -> None:
    """K steps of gradient descent with step a, differentiated, are a sum over k < K of (1 - aH)^k, times a."""
    case = next(case for case in METHOD_CASES if case.solver == "unrolled")
    series = next(case for case in METHOD_CASES if str(case) == "neumann+reverse").method(program, steps - 1)
    built = settled(program, case.method(program, steps))

    def inverse_of(name: str, reader: str) -> Tensor:
        return stands_for(series, program.problems[name].curvature)

    # Every problem takes its last steps before any reader takes its first, as `settled` has arranged it.
    assert_close(found_in(built), answered_hypergradient(program, points_of(built), inverse_of), 1e-9)


@pytest.mark.parametrize("case", METHOD_CASES, ids=str)
def test_a_step_descends_along_the_hypergradient(case: MethodCase) -> None:
    program = generate(LAYOUTS["chain with a skip"], sizes=(3, 2), seed=1)
    built = settled(program, case.method(program, STEPS))
    built.follow([name for name in program.below("top") if not looks_back(built, name)])
    before, expected = flat(built.program.parameters("top")), built.executor.hypergradient("top").gradient
    outcome = built.executor.step("top")
    assert_same(outcome.gradient, expected)
    after = flat(built.program.parameters("top"))
    torch.testing.assert_close(after, before - program.step_size * flat(expected), rtol=1e-14, atol=1e-14)
