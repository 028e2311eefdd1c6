"""Reported errors are those of the closed form, on generated quadratics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch.check import Request, check_program
from betty.backends.torch.check.candidates import name_of
from betty.backends.torch.check.reference import compare
from betty.ir.methods import INVERSES, PRODUCTS, Method, complete, preset
from betty.ir.records import Value
from tests.check.support import only, row
from tests.support.quadratics import LAYOUTS, QuadraticProgram, build, programs, random_points

TWO_LEVEL = programs(st.just(LAYOUTS["two levels"]))
FEW = settings(max_examples=8, deadline=None)
SEEDS = st.integers(0, 2**16)


def paired(inverse: str, product: str = "reverse", **options: Value) -> Method:
    return Method(
        solver=complete(inverse, INVERSES[inverse], options), product=complete(product, PRODUCTS[product], {})
    )


class Closed:
    """The two-level program after one step of ``low`` by gradient descent, and its hypergradients on paper."""

    def __init__(self, program: QuadraticProgram, seed: int) -> None:
        points = random_points(program, seed)
        self.low, self.top = program.problems["low"], program.problems["top"]
        self.start, self.step = points, program.step_size
        self.at = {**points, "low": points["low"] - self.step * self.low.partial("low", points)}
        self.adjoint = self.top.partial("low", self.at)

    def answer(self, q: Tensor) -> Tensor:
        """The hypergradient where ``q`` stands for ``H^-1 adjoint``."""
        return self.top.partial("top", self.at) - self.low.couplings["top"].T @ q

    @property
    def exact(self) -> Tensor:
        return self.answer(torch.linalg.solve(self.low.curvature, self.adjoint))

    def neumann(self, alpha: float, iterations: int) -> Tensor:
        total = term = self.adjoint
        for _ in range(iterations):
            term = term - alpha * self.low.curvature @ term
            total = total + term
        return self.answer(alpha * total)


@FEW
@given(TWO_LEVEL, SEEDS)
def test_implicit_methods_against_the_solution(program: QuadraticProgram, seed: int) -> None:
    closed = Closed(program, seed)
    methods = (paired("identity"), paired("neumann", alpha=0.2, iterations=3), paired("cg"))
    built = build(program, paired("identity", "finite_difference"), closed.start)
    found = only(check_program(built.graph, built.program, Request(iterations=1, points=1, methods=methods)))
    assert found.points == (1,) and found.target == "top"
    paper = {
        "identity + reverse": closed.answer(closed.adjoint),
        "identity + finite_difference": closed.answer(closed.adjoint),
        "neumann + reverse": closed.neumann(0.2, 3),
        "cg + reverse": closed.exact,
    }
    for name, gradient in paper.items():
        cosine, error = compare(gradient, closed.exact)
        assert row(found, name).error == pytest.approx(error, rel=1e-6, abs=1e-7), name
        assert row(found, name).cosine == pytest.approx(cosine, rel=1e-9, abs=1e-7), name


@FEW
@given(TWO_LEVEL, SEEDS)
def test_against_the_unrolled_update(program: QuadraticProgram, seed: int) -> None:
    """One step of descent: theta_1 moves by -step C with x, so the response is that of q = step * adjoint."""
    closed = Closed(program, seed)
    built = build(program, preset("unrolled"), closed.start)
    asked = Request(iterations=1, points=1, methods=(paired("identity"), paired("dense")))
    found = only(check_program(built.graph, built.program, asked))
    exact = closed.answer(closed.step * closed.adjoint)
    assert "unrolled" in found.reference
    assert row(found, "unrolled").error < 1e-10
    for name, gradient in {
        "identity + reverse": closed.answer(closed.adjoint),
        "dense + reverse": closed.exact,
    }.items():
        assert row(found, name).error == pytest.approx(compare(gradient, exact)[1], rel=1e-6, abs=1e-7), name


@FEW
@given(TWO_LEVEL, SEEDS)
def test_the_reference_can_be_chosen(program: QuadraticProgram, seed: int) -> None:
    closed = Closed(program, seed)
    built = build(program, paired("dense"), closed.start)
    asked = Request(iterations=1, points=1, methods=(), reference="unrolled")
    found = only(check_program(built.graph, built.program, asked))
    error = compare(closed.exact, closed.answer(closed.step * closed.adjoint))[1]
    assert row(found, "dense + reverse").error == pytest.approx(error, rel=1e-6, abs=1e-7)


def test_comparison() -> None:
    one, other = torch.tensor([3.0, 4.0]), torch.tensor([4.0, -3.0])
    assert compare(2 * one, one) == pytest.approx((1.0, 1.0))
    assert compare(other, one) == pytest.approx((0.0, math.sqrt(2)))
    assert compare(torch.zeros(2), torch.zeros(2))[1] == 0.0
    cosine, error = compare(torch.zeros(2), one)
    assert math.isnan(cosine)
    assert error == 1.0
    cosine, error = compare(torch.tensor([math.inf, 0.0]), one)
    assert math.isnan(cosine) and error == math.inf


@pytest.mark.parametrize("layout", ["chain", "two uppers", "two lowers", "diamond"])
def test_every_edge_that_carries_a_response(layout: str) -> None:
    """With exact methods everywhere nothing is wrong anywhere, whatever the hierarchy."""
    from tests.support.quadratics import generate

    program = generate(LAYOUTS[layout], (2, 3), seed=1)
    built = build(program, paired("dense"), random_points(program, 2))
    found = check_program(built.graph, built.program, Request(iterations=2, points=2, methods=()))
    carrying = {item.edge for step in built.plan for item in step.responses}
    assert {one.name for one in found.edges} == carrying
    assert set(found.silent) == {one.name for one in built.graph.edges} - carrying
    for one in found.edges:
        assert one.rows[0].error < 1e-9 and one.recommendation is not None and not one.recommendation.change


def test_mixed_methods_along_a_chain() -> None:
    """Trajectories and solves together: every edge is measured with the other one as it is."""
    from tests.support.quadratics import generate

    program = generate(LAYOUTS["chain acted on twice"], (2, 3), seed=3)
    methods = {("mid", "low"): preset("unrolled"), ("top", "mid"): paired("cg"), ("top", "low"): preset("unrolled")}
    built = build(program, methods, random_points(program, 2), unroll=2)
    found = check_program(built.graph, built.program, Request(iterations=8, points=2))
    for one in found.edges:
        assert row(one, name_of(methods[one.upper, one.lower])).error < 1e-6, one.name
        assert sum(each.ran for each in one.rows) > 20
    assert found.edges
