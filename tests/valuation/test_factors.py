"""Kronecker factors, their eigenvectors, and corrected eigenvalues, against sums that are written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch.influence import corrected, factors
from betty.backends.torch.influence.corrected import Corrected
from betty.backends.torch.influence.factors import Basis, Factors, basis
from betty.backends.torch.influence.units import Gradients, Outer, Unit
from tests.valuation.made import Layers, close, embedded, layers, matrix, part

CPU = torch.device("cpu")


def gathered(units: tuple[Unit, ...], *batches: Gradients) -> Factors:
    found = Factors(units)
    for gradients in batches:
        found.add(gradients)
    return found


def written_out(gradients: Gradients, unit: Unit) -> tuple[Tensor, Tensor]:
    """``S`` and ``A``, example by example and position by position."""
    left, right, positions = torch.zeros(unit.rows, unit.rows), torch.zeros(unit.columns, unit.columns), 0
    for use in gradients.outers[unit.name]:
        for example in range(gradients.count):
            for place in range(use.right.shape[1]):
                left = left + torch.outer(use.left[example, place], use.left[example, place])
                right = right + torch.outer(use.right[example, place], use.right[example, place])
                positions += 1
    return left / gradients.count, right / positions


@given(made=layers())
@settings(max_examples=20)
def test_factors_are_the_second_moments_of_both_sides(made: Layers) -> None:
    gradients = made.gradients()
    found = gathered(made.units, gradients)
    for unit in found.units:
        for one, expected in zip(found.pair(unit), written_out(gradients, unit), strict=True):
            close(one, expected)


@given(made=layers(uses=[(1,)]))
@settings(max_examples=10)
def test_eigenvalues_are_the_curvature_of_independent_sides(made: Layers) -> None:
    """Where every gradient meets every input, the Kronecker product is the exact second moment."""
    unit, *_ = made.units
    use = made.gradients().outers[unit.name][0]
    left, right = use.left.repeat_interleave(len(use.right), 0), use.right.repeat(len(use.left), 1, 1)
    crossed = Gradients(len(left), {unit.name: [Outer(left, right)]})
    among = basis(gathered((unit,), crossed), CPU)
    flat = crossed.flat((unit,))
    vectors = torch.kron(among.left[unit.name], among.right[unit.name])
    close(vectors.T @ torch.diag(among.values[unit.name].flatten()) @ vectors, flat.T @ flat / len(flat))


@given(made=layers(), cut=st.integers(0, 9))
@settings(max_examples=20)
def test_factors_of_parts_add_up_to_those_of_the_whole(made: Layers, cut: int) -> None:
    gradients = made.gradients()
    cut = min(cut, made.examples)
    halves = [gathered(made.units, part(gradients, 0, cut)), gathered(made.units, part(gradients, cut, made.examples))]
    if cut == 0:
        halves[0] = Factors(made.units)  # a process that was given nothing
    whole = gathered(made.units, gradients)
    for joined in joined_by_two(halves):
        assert joined.count == whole.count and joined.seen == whole.seen
        for unit in whole.units:
            for one, other in zip(joined.pair(unit), whole.pair(unit), strict=True):
                close(one, other)


def joined_by_two(halves: list[Factors]) -> list[Factors]:
    """Both processes' results, where what one gives to a sum is known to the other in the order of calls."""
    given: list[list[Tensor]] = []
    for half in halves:
        calls: list[Tensor] = []
        told = halves[0]._told() + halves[1]._told()

        def note(tensor: Tensor, calls: list[Tensor] = calls, told: Tensor = told) -> Tensor:
            calls.append(tensor)
            return told if len(calls) == 1 else tensor

        half.joined(note)
        given.append(calls)
    assert [one.shape for one in given[0]] == [one.shape for one in given[1]]
    results = []
    for half in halves:
        sums = iter([one + other for one, other in zip(*given, strict=True)])
        results.append(half.joined(lambda tensor, sums=sums: next(sums)))  # type: ignore[misc]
    return results


@given(made=layers())
@settings(max_examples=20)
def test_corrected_eigenvalues_are_the_second_moments_in_the_basis(made: Layers) -> None:
    gradients = made.gradients()
    among = basis(gathered(made.units, gradients), CPU)
    found = Corrected(made.units, among)
    for start in range(0, made.examples, 2):
        found.add(part(gradients, start, min(start + 2, made.examples)))
    for unit in found.units:
        vectors = torch.kron(among.left[unit.name], among.right[unit.name])
        close(vectors @ vectors.T, torch.eye(unit.size, dtype=torch.float64))
        projected = gradients.unit(unit) @ vectors.T
        close(found.values()[unit.name].flatten(), projected.square().mean(0))


def test_large_gradients_are_formed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Layers(((4, 3),), (), 7, (5,), 0)
    gradients, (unit,) = made.gradients(), made.units
    at_once = corrected.squares(gradients.outers[unit.name], unit, None, None)
    monkeypatch.setattr(corrected, "TOGETHER", 25)
    close(corrected.squares(gradients.outers[unit.name], unit, None, None), at_once)


@given(seed=st.integers(0, 10_000), length=st.integers(1, 6))
@settings(max_examples=20)
def test_embeddings_keep_counts_and_never_a_matrix_of_places(seed: int, length: int) -> None:
    unit = matrix("embedding", 4, 3)
    torch.manual_seed(seed)
    places = torch.randint(0, 4, (6, length))
    gradients = embedded(unit, places, torch.randn(6, length, 3, dtype=torch.float64))
    found = gathered((unit,), gradients)
    left, right = found.pair(unit)
    assert left.shape == (4,)
    onehot = torch.nn.functional.one_hot(places, 4).double()
    dense = Gradients(6, {unit.name: [Outer(onehot, gradients.outers[unit.name][0].right)]})
    expected = written_out(dense, unit)
    close(torch.diag(left), expected[0])
    close(right, expected[1])
    among = basis(found, CPU)
    assert among.sides(unit)[0] is None
    measured = Corrected((unit,), among)
    measured.add(gradients)
    seen = gradients.projected(unit, None, among.right[unit.name])
    close(measured.values()[unit.name], seen.square().mean(0))


def test_a_weight_that_is_tied_has_the_moments_of_both_uses() -> None:
    unit = matrix("embedding", 4, 3)
    reading = embedded(unit, torch.tensor([[0, 2], [1, 1]]), torch.randn(2, 2, 3, dtype=torch.float64))
    writing = Outer(torch.randn(2, 2, 4, dtype=torch.float64), torch.randn(2, 2, 3, dtype=torch.float64))
    tied = Gradients(2, {unit.name: [*reading.outers[unit.name], writing]})
    left, _ = gathered((unit,), tied).pair(unit)
    counts = torch.diag(torch.tensor([1.0, 2.0, 1.0, 0.0], dtype=torch.float64))
    close(left, (counts + writing.left.flatten(0, 1).T @ writing.left.flatten(0, 1)) / 2)
    among = basis(gathered((unit,), tied), CPU)
    measured = Corrected((unit,), among)
    measured.add(tied)
    close(measured.values()[unit.name], tied.projected(unit, *among.sides(unit)).square().mean(0))


def test_sides_that_are_too_large_keep_their_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "SIDE", 3)
    made = Layers(((4, 3), (2, 5)), (), 6, (2,), 0)
    gradients = made.gradients()
    found = gathered(made.units, gradients).joined(factors.same)
    (tall, wide), among = made.units, basis(found, CPU)
    assert [side is None for side in among.sides(tall)] == [True, False]
    assert [side is None for side in among.sides(wide)] == [False, True]
    close(found.pair(tall)[0], written_out(gradients, tall)[0].diagonal())
    close(found.pair(wide)[1], written_out(gradients, wide)[1].diagonal())


def test_factors_are_saved_and_come_back() -> None:
    made = Layers(((4, 3), (2, 5)), (2,), 6, (2, 1), 0)
    whole = gathered(made.units, made.gradients())
    again = Factors.restored(made.units, whole.state())
    assert again.count == whole.count and again.seen == whole.seen
    again.add(made.gradients())
    for unit in whole.units:
        for one, other in zip(again.pair(unit), whole.pair(unit), strict=True):
            close(one, other)


def test_a_layer_that_was_never_used_has_no_curvature() -> None:
    made = Layers(((4, 3), (2, 5)), (), 6, (2,), 0)
    gradients = made.gradients()
    used, unused = made.units
    alone = Gradients(6, {used.name: gradients.outers[used.name]})
    found = gathered(made.units, alone)
    among = basis(found, CPU)
    measured = Corrected(made.units, among)
    measured.add(alone)
    assert isinstance(among, Basis)
    assert not among.values[unused.name].any() and not measured.values()[unused.name].any()
