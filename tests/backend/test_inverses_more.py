"""Solves that start warm, are preconditioned, or are made for indefinite, low-rank and small Hessians."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch.methods import CG, Aid, Dense, Inverse, MinRes, Neumann, Nystrom, Solution, Status
from betty.backends.torch.tree import Tree
from tests.backend.test_inverses import SIZE, operator, seeds, solve, spectra, symmetric, tree_of, vector
from tests.support.compare import assert_close, assert_same, flat

signed = st.lists(st.one_of(st.floats(0.5, 20), st.floats(-20, -0.5)), min_size=SIZE, max_size=SIZE)
EYE = torch.eye(SIZE, dtype=torch.float64)


def aided(inverse: Inverse, matrix: Tensor, v: Tensor, aid: Aid) -> Solution:
    return inverse.solve(operator(matrix), tree_of(v), aid)


def count(solution: Solution) -> float:
    return float(solution.stats["iterations"])


@settings(max_examples=40)
@given(eigenvalues=signed, damping=st.sampled_from([0.0, 0.25]), seed=seeds)
def test_minres_solves_systems_of_any_signature(eigenvalues: list[float], damping: float, seed: int) -> None:
    matrix, v = symmetric(eigenvalues, seed), vector(seed)
    solution = solve(MinRes(iterations=60, tolerance=1e-10, damping=damping), matrix, v)
    assert solution.status is Status.OK
    assert_close(flat(solution.value), torch.linalg.solve(matrix + damping * EYE, v), 1e-7)
    left = (v - (matrix + damping * EYE) @ flat(solution.value)).norm() / v.norm()
    assert abs(float(left) - float(solution.stats["residual"])) < 1e-9


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_minres_has_the_smallest_residual_of_its_krylov_space(iterations: int) -> None:
    matrix, v = symmetric([-3.0, -1, 1, 2, 3, 4, 5, 6]), vector()
    solution = solve(MinRes(iterations=iterations, tolerance=1e-12), matrix, v)
    space = torch.stack([torch.linalg.matrix_power(matrix, power) @ v for power in range(iterations)], dim=1)
    best = space @ torch.linalg.lstsq(matrix @ space, v).solution
    assert solution.status is Status.ITERATIONS
    assert_close(flat(solution.value), best, 1e-8)
    assert solution.stats["residual"] == pytest.approx(float((v - matrix @ best).norm() / v.norm()), rel=1e-8)


def test_minres_of_a_singular_system_leaves_what_cannot_be_reached() -> None:
    matrix, v = symmetric([0.0, 1, 2, 3, 4, 5, 6, 7]), vector()
    solution = solve(MinRes(iterations=60, tolerance=1e-12), matrix, v)
    assert solution.status is Status.ITERATIONS
    residual = v - matrix @ flat(solution.value)
    assert float((matrix @ residual).norm()) < 1e-8
    assert float(residual.norm()) > 1e-3


def test_minres_is_told_of_nonfinite_products() -> None:
    v = vector()
    v[0] = math.nan
    assert solve(MinRes(), EYE, v).status in (Status.NONFINITE, Status.ITERATIONS)
    broken = MinRes().solve(lambda tree: tuple(leaf * math.nan for leaf in tree), tree_of(vector()))
    assert broken.status is Status.NONFINITE
    assert not flat(broken.value).any()


@settings(max_examples=40)
@given(eigenvalues=spectra, damping=st.floats(1e-3, 1), seed=seeds)
def test_nystrom_of_full_rank_is_the_damped_inverse(eigenvalues: list[float], damping: float, seed: int) -> None:
    matrix, v = symmetric(eigenvalues, seed), vector(seed)
    solution = aided(Nystrom(rank=20, damping=damping), matrix, v, Aid(seed=seed))
    assert solution.status is Status.OK
    assert count(solution) == SIZE
    assert_close(flat(solution.value), torch.linalg.solve(matrix + damping * EYE, v), 1e-8)


@settings(max_examples=30)
@given(rank=st.integers(1, 5), damping=st.floats(1e-2, 1), seed=seeds)
def test_nystrom_is_exact_from_the_rank_of_the_hessian_on(rank: int, damping: float, seed: int) -> None:
    matrix, v = symmetric([float(index + 1) for index in range(rank)] + [0.0] * (SIZE - rank), seed), vector(seed)
    solution = aided(Nystrom(rank=rank, damping=damping), matrix, v, Aid(seed=seed))
    assert_close(flat(solution.value), torch.linalg.solve(matrix + damping * EYE, v), 1e-7)


@settings(max_examples=20)
@given(eigenvalues=spectra, rank=st.integers(1, 7), seed=seeds)
def test_nystrom_below_full_rank_is_the_inverse_of_its_sketch(eigenvalues: list[float], rank: int, seed: int) -> None:
    matrix, v, seen = symmetric(eigenvalues, seed), vector(seed), []

    def watched(tree: Tree) -> Tree:
        seen.append(flat(tree))
        return tree_of(matrix @ flat(tree))

    solution = Nystrom(rank=rank, damping=0.3).solve(watched, tree_of(v), Aid(seed=seed))
    omega = torch.stack(seen, dim=1)
    sketch = matrix @ omega @ torch.linalg.inv(omega.T @ matrix @ omega) @ omega.T @ matrix
    assert_close(flat(solution.value), torch.linalg.solve(sketch + 0.3 * EYE, v), 1e-7)


def test_nystrom_draws_anew_for_another_seed_and_the_same_for_the_same() -> None:
    matrix, v = symmetric([1.0, 2, 3, 4, 5, 6, 7, 8]), vector()
    first, again, other = (flat(aided(Nystrom(rank=3), matrix, v, Aid(seed=seed)).value) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_nystrom_tells_of_negative_curvature() -> None:
    assert solve(Nystrom(rank=8), symmetric([-1.0, 1, 2, 3, 4, 5, 6, 7]), vector()).status is Status.NEGATIVE_CURVATURE


@settings(max_examples=40)
@given(eigenvalues=signed, damping=st.sampled_from([0.0, 0.25]), seed=seeds)
def test_dense_solves_the_system_itself(eigenvalues: list[float], damping: float, seed: int) -> None:
    matrix, v = symmetric(eigenvalues, seed), vector(seed)
    solution = solve(Dense(damping=damping), matrix, v)
    assert solution.status is Status.OK
    assert_close(flat(solution.value), torch.linalg.solve(matrix + damping * EYE, v), 1e-9)
    assert float(solution.stats["residual"]) < 1e-12


def test_dense_takes_the_shortest_solution_where_the_hessian_is_singular() -> None:
    matrix = symmetric([0.0, 0, 1, 2, 3, 4, 5, 6])
    v = matrix @ vector()
    assert_close(flat(solve(Dense(), matrix, v).value), torch.linalg.pinv(matrix, hermitian=True) @ v, 1e-9)


WARM = [
    CG(iterations=60, tolerance=1e-8, warm_start=True),
    MinRes(iterations=60, tolerance=1e-8, warm_start=True),
]


@pytest.mark.parametrize("inverse", WARM, ids=lambda one: type(one).__name__)
@settings(max_examples=20)
@given(eigenvalues=spectra, seed=seeds)
def test_a_warm_start_ends_at_the_same_solution(inverse: Inverse, eigenvalues: list[float], seed: int) -> None:
    matrix, v = symmetric(eigenvalues, seed), vector(seed)
    exact = torch.linalg.solve(matrix, v)
    near = tree_of(exact + 1e-4 * vector(seed + 1))
    warm, cold = aided(inverse, matrix, v, Aid(start=near)), aided(inverse, matrix, v, Aid())
    assert_close(flat(warm.value), exact, 1e-6)
    assert_close(flat(cold.value), exact, 1e-6)
    assert count(warm) <= count(cold)


@pytest.mark.parametrize("inverse", WARM, ids=lambda one: type(one).__name__)
def test_the_solution_itself_as_a_start_takes_no_iteration(inverse: Inverse) -> None:
    matrix, v = symmetric([1.0, 2, 3, 4, 5, 6, 7, 8]), vector()
    warm = aided(inverse, matrix, v, Aid(start=tree_of(torch.linalg.solve(matrix, v))))
    assert count(warm) == 0
    assert warm.status is Status.OK


@pytest.mark.parametrize("inverse", WARM, ids=lambda one: type(one).__name__)
def test_a_start_that_is_worse_than_zero_is_not_taken(inverse: Inverse) -> None:
    matrix, v = symmetric([1.0, 2, 3, 4, 5, 6, 7, 8]), vector()
    far = aided(inverse, matrix, v, Aid(start=tree_of(1e6 * vector(9))))
    assert_same(far.value, aided(inverse, matrix, v, Aid()).value)


def test_a_start_is_used_where_it_is_asked_for_alone() -> None:
    matrix, v, start = symmetric([1.0, 2, 3, 4, 5, 6, 7, 8]), vector(), Aid(start=tree_of(vector(9) / 100))
    for inverse in (CG(iterations=2), MinRes(iterations=2), Neumann(iterations=2, alpha=0.1)):
        assert_same(aided(inverse, matrix, v, start).value, aided(inverse, matrix, v, Aid()).value)
        warm = replace(inverse, warm_start=True)
        assert not torch.equal(flat(aided(warm, matrix, v, start).value), flat(aided(inverse, matrix, v, Aid()).value))


@settings(max_examples=20)
@given(iterations=st.integers(0, 10), seed=seeds)
def test_a_warm_neumann_series_goes_on_where_the_last_one_ended(iterations: int, seed: int) -> None:
    """From the sum of its first terms the series of a fixed system continues as if never interrupted."""
    matrix, v = symmetric([1.0, 2, 3, 4, 5, 6, 7, 8], seed), vector(seed)
    part, rest = Neumann(iterations=iterations, alpha=0.1), Neumann(iterations=3, alpha=0.1, warm_start=True)
    start = aided(part, matrix, v, Aid()).value
    whole = aided(Neumann(iterations=iterations + 4, alpha=0.1), matrix, v, Aid())
    found = aided(rest, matrix, v, Aid(start=start))
    assert_close(flat(found.value), flat(whole.value), 1e-10)
    assert float(found.stats["residual"]) == pytest.approx(float(whole.stats["residual"]), rel=1e-9)


@settings(max_examples=20)
@given(eigenvalues=spectra, seed=seeds)
def test_a_preconditioner_changes_the_way_and_not_the_solution(eigenvalues: list[float], seed: int) -> None:
    matrix, v = symmetric(eigenvalues, seed), vector(seed)
    aid = Aid(diagonal=lambda: tree_of(vector(seed + 2).abs() + 0.1))
    solution = aided(CG(iterations=60, tolerance=1e-9, precondition=True), matrix, v, aid)
    assert solution.status is Status.OK
    assert_close(flat(solution.value), torch.linalg.solve(matrix, v), 1e-7)


def test_the_right_preconditioner_solves_a_diagonal_system_in_one_iteration() -> None:
    scales = torch.tensor([1e-3, 1e-2, 0.1, 1, 10, 100, 1e3, 1e4], dtype=torch.float64)
    aid = Aid(diagonal=lambda: tree_of(scales))
    solution = aided(CG(tolerance=1e-10, precondition=True), torch.diag(scales), vector(), aid)
    assert count(solution) == 1
    plain = aided(CG(iterations=8, tolerance=1e-10), torch.diag(scales), vector(), aid)
    assert count(plain) > 5


@pytest.mark.parametrize("inverse", [MinRes(), Nystrom(), Dense()], ids=lambda item: type(item).__name__)
def test_nothing_comes_of_nothing(inverse: Inverse) -> None:
    solution = solve(inverse, symmetric([1.0] * SIZE), torch.zeros(SIZE, dtype=torch.float64))
    assert solution.status is Status.OK
    assert not flat(solution.value).any()
    assert all(math.isfinite(float(value)) for value in solution.stats.values())
