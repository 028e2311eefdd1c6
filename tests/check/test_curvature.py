"""Lanczos against dense algebra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch.check.curvature import lanczos, spectrum
from tests.check.support import F64


def matrix_of(values: list[float], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=F64))[0]
    return basis @ torch.diag(torch.tensor(values, dtype=F64)) @ basis.T


EIGENVALUES = st.lists(st.floats(-5, 5).map(lambda value: round(value, 2)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(EIGENVALUES, st.integers(0, 2**16))
def test_a_whole_space_gives_the_extreme_eigenvalues(values: list[float], seed: int) -> None:
    matrix = matrix_of(values, seed)
    start = torch.randn(len(values), generator=torch.Generator().manual_seed(seed + 1), dtype=F64)
    found = spectrum(lanczos(matrix.mv, start, len(values)))
    assert found.smallest == pytest.approx(min(values), abs=1e-8)
    assert found.largest == pytest.approx(max(values), abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(EIGENVALUES, st.integers(0, 2**16))
def test_solutions_of_indefinite_and_singular_systems(values: list[float], seed: int) -> None:
    matrix = matrix_of([value if abs(value) > 0.05 else 0.0 for value in values], seed)
    right = matrix @ torch.randn(len(values), generator=torch.Generator().manual_seed(seed + 1), dtype=F64)
    found = lanczos(matrix.mv, right, len(values)).solve()
    assert torch.allclose(found, torch.linalg.pinv(matrix, hermitian=True, rtol=1e-9) @ right, atol=1e-7)


def test_bounds_hold_for_a_short_space() -> None:
    values = torch.linspace(-1.0, 20.0, 200, dtype=F64)
    start = torch.ones(200, dtype=F64)
    found = spectrum(lanczos(lambda vector: values * vector, start, 12))
    assert values[0] <= found.smallest <= values[0] + found.smallest_bound
    assert values[-1] - found.largest_bound <= found.largest <= values[-1]
    assert found.smallest > values[0] + 1e-6  # not yet found, so that the bound is what is tested


def test_a_start_of_zero() -> None:
    found = lanczos(lambda vector: vector, torch.zeros(3, dtype=F64), 3)
    assert torch.equal(found.solve(), torch.zeros(3, dtype=F64))
