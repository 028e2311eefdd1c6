"""Products with the curvature of a training loss, solves with it, and labels drawn from a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from betty.backends.torch.errors import RunError
from betty.backends.torch.influence.curvature import Curvature
from betty.backends.torch.influence.inverses import Damping
from betty.backends.torch.influence.recording import Recorder
from betty.backends.torch.influence.rows import conjugate_gradients
from betty.backends.torch.influence.solving import Solving
from betty.backends.torch.influence.task import Task
from betty.backends.torch.methods import CG
from betty.valuation import Valuation
from betty.valuation.losses import to_task
from tests.valuation.problems import softmax

Batch = tuple[Tensor, Tensor]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def batches(kind: str) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for count in (5, 3, 4):
        inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        wanted = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        found.append((inputs, wanted.argmax(1) if kind == "categorical" else wanted.sigmoid().round()))
    return found


TASKS: dict[str, nn.Module] = {
    "categorical": nn.CrossEntropyLoss(),
    "gaussian": nn.MSELoss(),
    "bernoulli": nn.BCEWithLogitsLoss(),
}


def whole(kind: str, task: Task) -> tuple[Tensor, Tensor]:
    """The Hessian of the mean loss, and its Gauss-Newton part, written out."""
    model = network()
    inputs, wanted = (torch.cat(parts) for parts in zip(*batches(kind), strict=True))
    shapes = [(name, leaf.shape) for name, leaf in model.named_parameters()]
    flat = torch.cat([leaf.detach().flatten() for leaf in model.parameters()])

    def outputs(at: Tensor) -> Tensor:
        parts = at.split([shape.numel() for _, shape in shapes])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)}
        found: Tensor = torch.func.functional_call(model, named, (inputs,))
        return found

    assert task.losses_of is not None
    of = task.losses_of
    hessian = torch.autograd.functional.hessian(lambda at: of(outputs(at), (inputs, wanted)).mean(), flat)
    jacobian = torch.autograd.functional.jacobian(outputs, flat)
    inner = torch.autograd.functional.hessian(lambda out: of(out, (inputs, wanted)).sum(), outputs(flat))
    assert isinstance(hessian, Tensor) and isinstance(jacobian, Tensor) and isinstance(inner, Tensor)
    newton = torch.einsum("nip,ninj,njq->pq", jacobian, inner, jacobian) / len(inputs)
    # Units hold a bias as the last column of its weight.
    order = torch.tensor([row * 3 + column if column < 3 else 12 + row for row in range(4) for column in range(4)])
    after = torch.tensor([row * 4 + column if column < 4 else 12 + row for row in range(3) for column in range(5)])
    order = torch.cat([order, 16 + after])
    return hessian[order][:, order], newton[order][:, order]


@pytest.mark.parametrize("kind", TASKS)
def test_products_are_those_of_the_matrices(kind: str) -> None:
    task, model = to_task(TASKS[kind]), network()
    for name, expected in zip(("hessian", "gauss_newton"), whole(kind, task), strict=True):
        curvature = Curvature(model, task, batches(kind), Recorder(model).units, name)  # type: ignore[arg-type]
        torch.testing.assert_close(curvature.dense(), expected, rtol=1e-9, atol=1e-12)
        vectors = torch.randn(3, curvature.size, dtype=torch.float64)
        torch.testing.assert_close(curvature.product(vectors), vectors @ expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(curvature.product(vectors[0]), expected @ vectors[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", TASKS)
def test_exact_columns_and_drawn_labels_have_the_hessian_for_their_second_moments(kind: str) -> None:
    task = to_task(TASKS[kind])
    outputs = torch.randn(2, 3, dtype=torch.float64)
    wanted = batches(kind)[0][1][:2]
    batch = (torch.zeros(2, 3), wanted)
    assert task.losses_of is not None
    of = task.losses_of
    full = torch.autograd.functional.hessian(lambda out: of(out, batch).sum(), outputs)
    assert isinstance(full, Tensor)
    expected = torch.stack([full[place, :, place] for place in range(2)])
    columns = task.pseudo(outputs, batch)
    torch.testing.assert_close(torch.einsum("kni,knj->nij", columns, columns), expected, rtol=1e-9, atol=1e-12)
    many = outputs.repeat(20_000, 1).requires_grad_()
    drawn = Task(task.losses, lambda model, batch: many, task.losses_of, task.likelihood, task.scale)
    losses = drawn.sampled(nn.Identity(), batch, torch.Generator().manual_seed(0))
    (slopes,) = torch.autograd.grad(losses.sum(), many)
    moments = torch.einsum("sni,snj->nij", slopes.view(-1, 2, 3), slopes.view(-1, 2, 3)) / 20_000
    assert float((moments - expected).abs().max()) < 0.03 * float(expected.abs().max())


def test_labels_of_masked_positions_bring_nothing() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(4, 6, 5, requires_grad=True)
    weights = torch.rand(4, 6) * (torch.rand(4, 6) < 0.5)
    task = Task(lambda m, b: b, lambda m, b: outputs, None, "categorical", weights=lambda batch: weights)
    (slope,) = torch.autograd.grad(task.sampled(nn.Identity(), None, torch.Generator()).sum(), outputs)
    assert torch.equal(slope.abs().sum(2) > 0, weights > 0)


@settings(max_examples=15)
@given(size=st.integers(1, 8), rows=st.integers(1, 4), steps=st.integers(1, 10), seed=st.integers(0, 999))
def test_rows_are_solved_as_the_compiler_solves_one(size: int, rows: int, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = half @ half.T + 0.1 * torch.eye(size, dtype=torch.float64)
    given = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    found = conjugate_gradients(lambda v: v @ matrix, given, steps, 1e-8)
    for row, value in zip(given, found.value, strict=True):
        (one,) = CG(iterations=steps, tolerance=1e-8).solve(lambda v: (matrix @ v[0],), (row,)).value
        torch.testing.assert_close(value, one, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "arnoldi", "rank": 99, "iterations": 99, "curvature": "gauss_newton"},
        {"name": "lissa", "iterations": 1500, "repeat": 1, "scale": 0.0, "curvature": "gauss_newton"},
        {"name": "cg", "iterations": 99, "tolerance": 1e-12, "curvature": "hessian"},
    ],
    ids=lambda one: str(one["name"]),
)
def test_solves_tend_to_the_dense_one(options: dict[str, Any]) -> None:
    solved = softmax(0)
    task, units = to_task(solved.loss), Recorder(solved.model).units

    def solve(options: dict[str, Any], rows: Tensor) -> Tensor:
        name, rest = options["name"], {key: one for key, one in options.items() if key != "name"}
        how: dict[str, Any] = {
            "model": solved.model,
            "task": task,
            "batches": [solved.train],
            "units": units,
            "seed": 0,
        }
        return Solving.made(name, rest, damping=Damping(0.1, True, solved.decay), **how).solve(rows)

    rows = solved.gradients(*solved.queries)
    rows = torch.cat([rows[:, :12].view(-1, 3, 4), rows[:, 12:].unsqueeze(2)], 2).flatten(1)
    exact = solve({"name": "dense", "curvature": "hessian", "limit": 100}, rows)
    torch.testing.assert_close(solve(options, rows), exact, rtol=1e-5, atol=1e-8)


def test_too_large_a_matrix_and_a_missing_likelihood_are_refused() -> None:
    valuation = Valuation(network(), nn.CrossEntropyLoss(), method="dense", limit=10)
    with pytest.raises(RunError, match="a matrix of 31 rows: expected at most 10"):
        valuation.log(batches("categorical"))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    with pytest.raises(RunError, match="likelihood"):
        Valuation(network(), loss, method="kfac", fisher="sampled").log(batches("categorical"))
    with pytest.raises(RunError, match="outputs"):
        Valuation(network(), loss, method="cg").log(batches("categorical"))


def test_ranks_may_differ_by_layer() -> None:
    valuation = Valuation(network(), nn.CrossEntropyLoss(), method="logra", rank=2, ranks={"2": 3})
    valuation.log(batches("categorical"))
    assert valuation.size == 2 * 2 + 3 * 3
