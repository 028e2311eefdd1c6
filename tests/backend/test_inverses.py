"""Inverses by themselves, on dense operators over trees of several leaves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch.methods import CG, Identity, Inverse, Neumann, Solution, Status
from betty.backends.torch.methods.base import Operator
from betty.backends.torch.tree import Tree, axpy
from tests.support.compare import assert_close, assert_same, flat

SHAPES = ((2, 2), (), (3,))
SIZE = 8


def tree_of(vector: Tensor) -> Tree:
    """A vector of eight entries as a matrix, a scalar and a vector."""
    parts = vector.split([math.prod(shape) for shape in SHAPES])
    return tuple(part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True))


def operator(matrix: Tensor) -> Operator:
    return lambda v: tree_of(matrix @ flat(v))


def symmetric(eigenvalues: list[float], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))[0]
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def vector(seed: int = 1) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solve(inverse: Inverse, matrix: Tensor, v: Tensor) -> Solution:
    solution = inverse.solve(operator(matrix), tree_of(v))
    assert [leaf.shape for leaf in solution.value] == [torch.Size(shape) for shape in SHAPES]
    return solution


spectra = st.lists(st.floats(0.5, 20), min_size=SIZE, max_size=SIZE)
seeds = st.integers(0, 999)


@settings(max_examples=40)
@given(eigenvalues=spectra, seed=seeds)
def test_cg_solves_definite_systems(eigenvalues: list[float], seed: int) -> None:
    matrix, v = symmetric(eigenvalues, seed), vector(seed)
    solution = solve(CG(iterations=40, tolerance=1e-10), matrix, v)
    assert solution.status is Status.OK
    assert_close(flat(solution.value), torch.linalg.solve(matrix, v), 1e-8)
    assert solution.stats["residual"] <= 1e-10
    assert 1 <= float(solution.stats["iterations"]) <= 2 * SIZE


@settings(max_examples=40)
@given(eigenvalues=spectra, damping=st.floats(0, 5), seed=seeds)
def test_damping_shifts_every_eigenvalue(eigenvalues: list[float], damping: float, seed: int) -> None:
    matrix, v = symmetric(eigenvalues, seed), vector(seed)
    solution = solve(CG(iterations=40, tolerance=1e-10, damping=damping), matrix, v)
    shifted = matrix + damping * torch.eye(SIZE, dtype=torch.float64)
    assert_close(flat(solution.value), torch.linalg.solve(shifted, v), 1e-8)


@pytest.mark.parametrize("distinct", [1, 2, 4])
def test_cg_needs_as_many_iterations_as_there_are_eigenvalues(distinct: int) -> None:
    matrix = symmetric([1.0 + index % distinct for index in range(SIZE)])
    assert solve(CG(tolerance=1e-10), matrix, vector()).stats["iterations"] == distinct


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_cg_that_runs_out_of_iterations_says_so_and_reports_its_true_residual(iterations: int) -> None:
    matrix, v = symmetric([1.0, 2, 3, 4, 5, 6, 7, 8]), vector()
    solution = solve(CG(iterations=iterations, tolerance=1e-12), matrix, v)
    assert solution.status is Status.ITERATIONS
    assert solution.stats["iterations"] == iterations
    residual = (v - matrix @ flat(solution.value)).norm() / v.norm()
    assert solution.stats["residual"] == pytest.approx(float(residual), rel=1e-9)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
def test_cg_stops_at_its_tolerance_and_not_before(tolerance: float) -> None:
    matrix, v = symmetric([1.0, 2, 3, 4, 5, 6, 7, 8]), vector()
    solution = solve(CG(tolerance=tolerance), matrix, v)
    taken = int(float(solution.stats["iterations"]))
    earlier = solve(CG(iterations=taken - 1, tolerance=tolerance), matrix, v)
    assert solution.status is Status.OK
    assert earlier.status is Status.ITERATIONS
    assert solution.stats["residual"] <= tolerance < earlier.stats["residual"]


def test_cg_stops_at_negative_curvature_with_what_it_has() -> None:
    matrix, v = symmetric([-1.0, 1, 2, 3, 4, 5, 6, 7]), vector()
    solution = solve(CG(tolerance=1e-12), matrix, v)
    assert solution.status is Status.NEGATIVE_CURVATURE
    taken = int(float(solution.stats["iterations"]))
    assert taken < SIZE
    assert_same(solution.value, solve(CG(iterations=taken, tolerance=1e-12), matrix, v).value)


def test_cg_at_a_negative_definite_operator_returns_zero() -> None:
    solution = solve(CG(), -torch.eye(SIZE, dtype=torch.float64), vector())
    assert solution.status is Status.NEGATIVE_CURVATURE
    assert not flat(solution.value).any()
    assert solution.stats == {"iterations": 0.0, "residual": 1.0}


def test_enough_damping_heals_negative_curvature() -> None:
    matrix = symmetric([-1.0, 1, 2, 3, 4, 5, 6, 7])
    assert solve(CG(damping=1.5), matrix, vector()).status is Status.OK


def test_cg_solves_a_singular_system_that_has_a_solution() -> None:
    matrix = symmetric([0.0, 0, 1, 2, 3, 4, 5, 6])
    v = matrix @ vector()
    solution = solve(CG(tolerance=1e-9), matrix, v)
    assert solution.status is Status.OK
    assert_close(matrix @ flat(solution.value), v, 1e-8)


def test_cg_at_the_zero_operator_meets_no_positive_curvature() -> None:
    solution = solve(CG(), torch.zeros(SIZE, SIZE, dtype=torch.float64), vector())
    assert solution.status is Status.NEGATIVE_CURVATURE


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_adjoint_is_a_status_not_an_exception(bad: float) -> None:
    v = vector()
    v[3] = bad
    solution = solve(CG(), symmetric([1.0] * SIZE), v)
    assert solution.status is Status.NONFINITE
    assert not flat(solution.value).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("after", [0, 2])
def test_a_product_that_turns_non_finite_leaves_the_best_answer_so_far(after: int, bad: float) -> None:
    matrix, v, calls = symmetric([1.0, 2, 3, 4, 5, 6, 7, 8]), vector(), []

    def breaking(direction: Tree) -> Tree:
        calls.append(direction)
        image = operator(matrix)(direction)
        return tuple(leaf * bad for leaf in image) if len(calls) > after else image

    solution = CG(tolerance=1e-12).solve(breaking, tree_of(v))
    assert solution.status is Status.NONFINITE
    assert len(calls) == after + 1
    assert_same(solution.value, CG(iterations=after, tolerance=1e-12).solve(operator(matrix), tree_of(v)).value)


@pytest.mark.parametrize("inverse", [Identity(), CG(), Neumann()], ids=lambda item: type(item).__name__)
def test_nothing_comes_of_nothing(inverse: Inverse) -> None:
    solution = solve(inverse, symmetric([1.0] * SIZE), torch.zeros(SIZE, dtype=torch.float64))
    assert solution.status is Status.OK
    assert not flat(solution.value).any()
    assert all(math.isfinite(float(value)) for value in solution.stats.values())


def test_a_zero_tolerance_ends_at_the_exact_solution() -> None:
    solution = solve(CG(tolerance=0.0), torch.eye(SIZE, dtype=torch.float64), vector())
    assert solution.status is Status.OK
    assert_same([flat(solution.value)], [vector()])


@settings(max_examples=20)
@given(eigenvalues=spectra, iterations=st.integers(0, 30), alpha=st.floats(0.001, 0.09), seed=seeds)
def test_neumann_is_its_polynomial(eigenvalues: list[float], iterations: int, alpha: float, seed: int) -> None:
    matrix, v = symmetric(eigenvalues, seed), vector(seed)
    solution = solve(Neumann(iterations=iterations, alpha=alpha), matrix, v)
    damped = torch.eye(SIZE, dtype=torch.float64) - alpha * matrix
    expected = alpha * sum((torch.linalg.matrix_power(damped, k) @ v for k in range(iterations + 1)), 0 * v)
    assert_close(flat(solution.value), expected, 1e-10)
    assert solution.stats["iterations"] == iterations


@settings(max_examples=20)
@given(eigenvalues=spectra, factor=st.floats(-3, 3), seed=seeds)
@pytest.mark.parametrize("inverse", [Identity(), Neumann(iterations=7, alpha=0.05)], ids=lambda i: type(i).__name__)
def test_inverses_of_fixed_length_are_linear(
    inverse: Inverse, eigenvalues: list[float], factor: float, seed: int
) -> None:
    matrix, v, w = symmetric(eigenvalues, seed), vector(seed), vector(seed + 1)
    of_sum = solve(inverse, matrix, factor * v + w).value
    sum_of = axpy(factor, solve(inverse, matrix, v).value, solve(inverse, matrix, w).value)
    torch.testing.assert_close(flat(of_sum), flat(sum_of), rtol=1e-10, atol=1e-10)


def test_neumann_diverges_beyond_its_radius_and_identity_asks_for_no_product() -> None:
    matrix = symmetric([1.0, 2, 3, 4, 5, 6, 7, 30])
    grown = solve(Neumann(iterations=60, alpha=0.1), matrix, vector())
    assert float(flat(grown.value).norm()) > 1e6
    v = tree_of(vector())
    assert_same(Identity().solve(lambda _: pytest.fail("no product is needed"), v).value, v)


def test_cg_works_in_single_precision() -> None:
    matrix, v = symmetric([1.0, 2, 3, 4, 5, 6, 7, 8]), vector()
    single = CG(iterations=40, tolerance=1e-5).solve(operator(matrix.float()), tree_of(v.float()))
    assert single.status is Status.OK
    assert flat(single.value).dtype == torch.float32
    assert_close(flat(single.value).double(), torch.linalg.solve(matrix, v), 1e-4)
