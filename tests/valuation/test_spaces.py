"""Where gradients are stored: projections against matrices that are written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch.influence import projection
from betty.backends.torch.influence.corrected import Corrected
from betty.backends.torch.influence.factors import Factors, basis
from betty.backends.torch.influence.inverses import Damping, Moments
from betty.backends.torch.influence.projection import RandomProjection
from betty.backends.torch.influence.spaces import LoGra, Whole
from betty.backends.torch.influence.units import Gradients, Outer
from betty.ir.diagnostics import BettyError
from tests.valuation.made import Layers, close, embedded, layers, matrix

CPU = torch.device("cpu")
INITS = st.sampled_from(["random", "pca", "ekfac"])


def logra(made: Layers, init: str, rank: int) -> LoGra:
    if init == "random":
        return LoGra.random(made.units, rank, 0, CPU, torch.float64)
    factors = Factors(made.units)
    factors.add(made.gradients())
    among = basis(factors, CPU)
    if init == "pca":
        return LoGra.leading(made.units, among, rank, 0)
    values = Corrected(made.units, among)
    values.add(made.gradients())
    return LoGra.chosen(made.units, among, values.values(), rank, 0)


@given(made=layers())
@settings(max_examples=10)
def test_whole_gradients_are_stored_in_the_order_of_units(made: Layers) -> None:
    gradients, space = made.gradients(), Whole(made.units)
    assert space.size == sum(unit.size for unit in made.units)
    for unit, rows in zip(made.units, space.rows(gradients).split(list(space.dimensions.values()), 1), strict=True):
        assert torch.equal(rows, gradients.unit(unit))


@given(made=layers(), init=INITS, rank=st.integers(1, 6))
@settings(max_examples=30)
def test_logra_is_the_kronecker_product_of_its_sides_applied_to_the_gradient(
    made: Layers, init: str, rank: int
) -> None:
    gradients, space = made.gradients(), logra(made, init, rank)
    parts = space.rows(gradients).split(list(space.dimensions.values()), 1)
    for unit, rows in zip(made.units, parts, strict=True):
        whole = gradients.unit(unit)
        if not unit.matrix:
            mixed = space.mixed.get(unit.name)
            assert rows.shape[1] == min(unit.size, rank**2)
            close(rows, whole if mixed is None else whole @ mixed.T)
            continue
        left, right = space.left[unit.name], space.right[unit.name]
        assert len(left) == min(rank, unit.rows) and len(right) == min(rank, unit.columns)
        close(rows, whole @ torch.kron(left, right).T)
        close(left @ left.T, torch.eye(len(left), dtype=torch.float64))
        close(right @ right.T, torch.eye(len(right), dtype=torch.float64))


@given(made=layers(), init=INITS, damping=st.sampled_from([0.01, 0.1, 2.0]), relative=st.booleans())
@settings(max_examples=20)
def test_logra_at_full_rank_is_the_method_without_projection(
    made: Layers, init: str, damping: float, relative: bool
) -> None:
    gradients = made.gradients()
    scores = []
    for space in (Whole(made.units), logra(made, init, 5)):
        rows = space.rows(gradients)
        moments = Moments(space.dimensions)
        moments.add(rows)
        scores.append(rows @ moments.finished(Damping(damping, relative)).solve(rows).T)
    close(scores[1], scores[0], 1e-8)


def test_the_axes_of_an_embedding_that_are_read_most_are_kept() -> None:
    unit = matrix("embedding", 5, 3)
    places = torch.tensor([[1, 3, 3, 4], [3, 1, 1, 3]])
    gradients = embedded(unit, places, torch.randn(2, 4, 3, dtype=torch.float64))
    factors = Factors((unit,))
    factors.add(gradients)
    space = LoGra.leading((unit,), basis(factors, CPU), 2, 0)
    assert torch.equal(space.left[unit.name], torch.eye(5, dtype=torch.float64)[[3, 1]])
    close(space.rows(gradients), gradients.unit(unit) @ torch.kron(space.left[unit.name], space.right[unit.name]).T)


def test_the_pairs_of_most_curvature_are_kept_and_not_those_of_most_variance() -> None:
    made = Layers(((4, 3),), (), 8, (2,), 0)
    (unit,) = made.units
    factors = Factors(made.units)
    factors.add(made.gradients())
    among = basis(factors, CPU)
    values = torch.zeros(4, 3, dtype=torch.float64)
    values[0, 1], values[2, 0] = 3.0, 5.0
    space = LoGra.chosen(made.units, among, {unit.name: values}, 2, 0)
    assert torch.equal(space.left[unit.name], among.left[unit.name][[2, 0]])
    assert torch.equal(space.right[unit.name], among.right[unit.name][[0, 1]])


def test_the_rank_may_differ_between_layers() -> None:
    made = Layers(((4, 3), (5, 5)), (4,), 8, (2,), 0)
    space = LoGra.random(made.units, {"layers.0": 2, "*": 3}, 0, CPU, torch.float64)
    assert space.dimensions == {"layers.0": 4, "layers.1": 9, "norms.0": 4}
    with pytest.raises(BettyError, match=r"no layer is called 'layer\.0'.*did you mean 'layers\.0'"):
        LoGra.random(made.units, {"layer.0": 2, "*": 3}, 0, CPU, torch.float64)
    with pytest.raises(BettyError, match=r"nothing is said of layer 'norms\.0'"):
        LoGra.random(made.units, {"layers.*": 2}, 0, CPU, torch.float64)


@pytest.mark.parametrize("init", ["random", "pca", "ekfac"])
def test_a_projection_is_saved_and_comes_back(init: str) -> None:
    made = Layers(((4, 3), (5, 5)), (2, 9), 8, (2,), 0)
    space = logra(made, init, 2)
    again = LoGra.restored(made.units, space.state())
    assert again.dimensions == space.dimensions
    assert torch.equal(again.rows(made.gradients()), space.rows(made.gradients()))


@given(made=layers(), seed=st.integers(0, 1000), dimension=st.integers(1, 150))
@settings(max_examples=15)
def test_a_random_projection_is_one_matrix_of_signs(made: Layers, seed: int, dimension: int) -> None:
    gradients, space = made.gradients(), RandomProjection(made.units, dimension, seed)
    size = sum(unit.size for unit in made.units)
    matrix = space.rows(basis_vectors(made, size)).T
    assert matrix.shape == (dimension, size)
    close(matrix.abs(), torch.full_like(matrix, dimension**-0.5))
    close(space.rows(gradients), gradients.flat(made.units) @ matrix.T)


def basis_vectors(made: Layers, size: int) -> Gradients:
    """As many examples as there are entries, each with one of them."""
    eye, vectors, start = torch.eye(size, dtype=torch.float64), {}, 0
    outers = {}
    for unit in made.units:
        found = eye[:, start : start + unit.size]
        start += unit.size
        if unit.matrix:
            outers[unit.name] = [as_outer(found.view(size, unit.rows, unit.columns))]
        else:
            vectors[unit.name] = found
    return Gradients(size, outers, vectors)


def as_outer(whole: Tensor) -> Outer:
    """Matrices as sums over their rows."""
    eye = torch.eye(whole.shape[1], dtype=whole.dtype)
    return Outer(eye.expand(len(whole), -1, -1), whole)


def test_signs_do_not_depend_on_blocks_and_keep_inner_products(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Layers(((5, 5), (4, 4)), (3,), 6, (2,), 0)
    gradients = made.gradients()
    held = RandomProjection(made.units, 4096, 1).rows(gradients)
    monkeypatch.setattr(projection, "HELD", 0)
    monkeypatch.setattr(projection, "BLOCK", 4096 * 3)
    streamed = RandomProjection(made.units, 4096, 1).rows(gradients)
    close(streamed, held)
    assert not torch.equal(RandomProjection(made.units, 4096, 2).rows(gradients), held)
    flat = gradients.flat(made.units)
    norms = flat.norm(dim=1)
    drift = (held @ held.T - flat @ flat.T) / torch.outer(norms, norms)
    assert float(drift.abs().max()) < 5 / 4096**0.5


def test_signs_are_even_and_unrelated() -> None:
    drawn = projection.signs(7, 0, 20_000, 128, torch.zeros(0, dtype=torch.float64))
    assert float(drawn.mean().abs()) < 5 / (20_000 * 128) ** 0.5
    related = drawn.T @ drawn / len(drawn) - torch.eye(128, dtype=torch.float64)
    assert float(related.abs().max()) < 6 / len(drawn) ** 0.5
    assert torch.equal(projection.signs(7, 123, 130, 128, drawn), drawn[123:130])
