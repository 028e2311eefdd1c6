"""Inverses of block-diagonal curvature against dense linear algebra."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch.influence.corrected import Corrected
from betty.backends.torch.influence.factors import Basis, Factors, basis
from betty.backends.torch.influence.inverses import Blocks, Damping, Identity, Moments, kronecker
from betty.backends.torch.influence.recording import Recorder
from betty.backends.torch.influence.spaces import Whole
from betty.backends.torch.influence.task import Task
from tests.valuation.made import Layers, close, embedded, layers, matrix, part, second
from tests.valuation.problems import softmax

CPU = torch.device("cpu")
dampings = st.builds(Damping, st.sampled_from([0.001, 0.1, 3.0]), st.booleans(), st.sampled_from([0.0, 0.05]))


def eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def bases(made: Layers) -> tuple[Factors, Basis, dict[str, Tensor]]:
    """The factors, their eigenvectors, and corrected eigenvalues."""
    factors = Factors(made.units)
    factors.add(made.gradients())
    among = basis(factors, CPU)
    measured = Corrected(made.units, among)
    measured.add(made.gradients())
    return factors, among, measured.values()


def others(made: Layers, damping: Damping) -> Blocks:
    vectors = [unit for unit in made.units if not unit.matrix]
    moments = Moments({unit.name: unit.size for unit in vectors})
    if vectors:
        moments.add(made.gradients().flat(vectors))
    return moments.finished(damping)


def dense(made: Layers, damping: Damping, curvature: dict[str, Tensor]) -> Tensor:
    """The inverse of damped blocks, ``[size, size]``."""
    found = []
    for unit in made.units:
        block = curvature[unit.name] if unit.matrix else second(made.gradients().unit(unit))
        mean = float(block.trace()) / unit.size
        added = damping.value * (mean if damping.relative else 1.0) + damping.decay
        found.append(torch.linalg.inv(block + added * eye(unit.size)))
    return torch.block_diag(*found)


@given(made=layers(), damping=dampings)
@settings(max_examples=25)
def test_kfac_is_the_inverse_of_damped_kronecker_products(made: Layers, damping: Damping) -> None:
    factors, among, _ = bases(made)
    inverse = kronecker(made.units, among, among.values, damping, others(made, damping))
    products = {unit.name: torch.kron(*factors.pair(unit)) for unit in factors.units}
    size = sum(unit.size for unit in made.units)
    close(inverse.solve(eye(size)), dense(made, damping, products))


@given(made=layers(), damping=dampings)
@settings(max_examples=25)
def test_ekfac_has_exact_second_moments_in_the_eigenbasis(made: Layers, damping: Damping) -> None:
    _, among, values = bases(made)
    inverse = kronecker(made.units, among, values, damping, others(made, damping))
    curvature = {}
    for unit in made.units:
        if unit.matrix:
            vectors = torch.kron(among.left[unit.name], among.right[unit.name])
            moments = (made.gradients().unit(unit) @ vectors.T).square().mean(0)
            curvature[unit.name] = vectors.T @ torch.diag(moments) @ vectors
    size = sum(unit.size for unit in made.units)
    close(inverse.solve(eye(size)), dense(made, damping, curvature))


@given(made=layers(), damping=dampings, whole=st.booleans())
@settings(max_examples=25)
def test_blocks_are_inverses_of_damped_second_moments(made: Layers, damping: Damping, whole: bool) -> None:
    space, gradients = Whole(made.units), made.gradients()
    rows, moments = space.rows(gradients), Moments(space.dimensions, whole=whole)
    for start in range(0, made.examples, 3):
        moments.add(space.rows(part(gradients, start, min(start + 3, made.examples))))
    pieces = [rows] if whole else list(rows.split(list(space.dimensions.values()), 1))
    expected = []
    for piece in pieces:
        block = second(piece)
        mean = float(block.diagonal().mean()) if damping.relative else 1.0
        expected.append(torch.linalg.inv(block + (damping.value * mean + damping.decay) * eye(len(block))))
    close(moments.finished(damping).solve(eye(rows.shape[1])), torch.block_diag(*expected))


def test_embeddings_are_solved_without_a_matrix_of_places() -> None:
    unit = matrix("embedding", 5, 3)
    places = torch.randint(0, 5, (8, 4))
    gradients = embedded(unit, places, torch.randn(8, 4, 3, dtype=torch.float64))
    factors, damping = Factors((unit,)), Damping(0.1, True)
    factors.add(gradients)
    among = basis(factors, CPU)
    left, right = factors.pair(unit)
    inverse = kronecker((unit,), among, among.values, damping, Blocks({}, {}, {}))
    assert f"left.{unit.name}" not in inverse.bases
    block = torch.kron(torch.diag(left), right)
    close(inverse.solve(eye(15)), torch.linalg.inv(block + damping.of(block.diagonal()) * eye(15)))


def test_the_gauss_newton_block_of_softmax_regression_is_the_hessian() -> None:
    solved = softmax(1)
    task = Task(
        losses=lambda model, batch: solved.loss(model(batch[0]), batch[1]),
        outputs=lambda model, batch: model(batch[0]),
        losses_of=lambda outputs, batch: solved.loss(outputs, batch[1]),
        likelihood="categorical",
    )
    recorder = Recorder(solved.model)
    moments = Moments({unit.name: unit.size for unit in recorder.units})
    columns = task.pseudo(solved.model(solved.train[0]), solved.train)
    for place, column in enumerate(columns):
        with recorder.recording():
            (solved.model(solved.train[0]) * column).sum().backward()
        count = len(solved.train[0]) if place == 0 else 0
        moments.add(recorder.take().flat(recorder.units), count=count)
    (unit,) = recorder.units
    names = [name for name, _ in solved.model.named_parameters()]
    flat = torch.cat([unit.split(eye(unit.size))[name].flatten(1) for name in names], 1)  # [unit, model]'s order
    close(flat.T @ moments.mean()[unit.name] @ flat, solved.hessian())


def test_weights_are_those_of_outer_products() -> None:
    rows, weights = torch.randn(6, 4, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    moments = Moments({"all": 4})
    moments.add(rows, weights)
    close(moments.mean()["all"], (rows.T * weights) @ rows / 6)


@given(made=layers(), cut=st.integers(0, 9))
@settings(max_examples=15)
def test_moments_of_parts_add_up_to_those_of_the_whole(made: Layers, cut: int) -> None:
    space, gradients = Whole(made.units), made.gradients()
    rows, cut = space.rows(gradients), min(cut, made.examples)
    whole = Moments(space.dimensions)
    whole.add(rows)
    halves = [Moments(space.dimensions), Moments(space.dimensions)]
    for half, own in zip(halves, (rows[:cut], rows[cut:]), strict=True):
        if len(own):
            half.add(own)
    given: list[list[Tensor]] = []
    for half in halves:
        calls: list[Tensor] = []
        both = torch.tensor([made.examples, 2], dtype=torch.float64)
        half.mean(lambda tensor, calls=calls, both=both: (calls.append(tensor), both if len(calls) == 1 else tensor)[1])  # type: ignore[misc]
        given.append(calls)
    sums = iter([one + other for one, other in zip(*given, strict=True)])
    for name, found in halves[0].mean(lambda tensor: next(sums)).items():
        close(found, whole.mean()[name])


def test_large_blocks_keep_their_diagonal_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    rows = torch.randn(6, 5, dtype=torch.float64)
    with caplog.at_level(logging.WARNING, logger="betty"):
        moments = Moments({"small": 2, "large": 3}, largest=2)
    assert "large: of its curvature the diagonal is kept" in caplog.text and "small" not in caplog.text
    moments.add(rows)
    inverse = moments.finished(Damping(0.1, False))
    expected = 1 / (rows[:, 2:].square().mean(0) + 0.1)
    close(inverse.solve(rows)[:, 2:], rows[:, 2:] * expected)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
def test_without_damping_directions_that_nothing_has_are_left_out(kind: torch.dtype) -> None:
    """Rounding makes small numbers of their zero eigenvalues."""
    rows = torch.randn(4, 12, dtype=kind) @ torch.randn(12, 12, dtype=kind)
    moments = Moments({"all": 12})
    moments.add(rows)
    found = moments.finished(Damping(0.0, False)).solve(rows)
    exact = rows.double() @ torch.linalg.pinv(second(rows.double()), rtol=1e-6, hermitian=True)
    torch.testing.assert_close(found.double() @ rows.double().T, exact @ rows.double().T, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("method", ["identity", "kfac", "ekfac", "blocks", "whole"])
def test_an_inverse_is_saved_and_comes_back(method: str) -> None:
    made = Layers(((4, 3), (2, 5)), (2,), 9, (2,), 0)
    space, damping = Whole(made.units), Damping(0.1, True)
    rows = space.rows(made.gradients())
    if method == "identity":
        assert Identity().state() == {} and Identity().solve(rows) is rows
        return
    if method in {"kfac", "ekfac"}:
        _, among, values = bases(made)
        values = dict(among.values) if method == "kfac" else values
        inverse = kronecker(made.units, among, values, damping, others(made, damping))
    else:
        moments = Moments(space.dimensions, whole=method == "whole")
        moments.add(rows)
        inverse = moments.finished(damping)
    again = Blocks.restored(inverse.dimensions, inverse.state())
    assert torch.equal(again.solve(rows), inverse.solve(rows))


def test_sums_stay_where_they_are_asked_to() -> None:
    made = Layers(((4, 3),), (2,), 9, (2,), 0)
    meta = torch.device("meta")
    factors, gradients = Factors(made.units, meta), made.gradients()
    factors.add(gradients)
    assert all(total.device == meta for sums in (factors.inputs, factors.outputs) for total in sums.values())
    measured = Corrected(made.units, bases(made)[1], meta)
    moments = Moments({unit.name: unit.size for unit in made.units}, device=meta)
    measured.add(gradients)
    moments.add(gradients.flat(made.units))
    assert all(total.device == meta for sums in (measured.sums, moments.sums) for total in sums.values())
