"""Products against dense Hessians and mixed derivatives of a small tanh network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from betty.backends.torch.methods import FiniteDifference, Forward, Linearization, Lower, Product, Reverse
from betty.backends.torch.objective import Objective, ParameterModule, Sample, View, trainable
from betty.backends.torch.tree import Tree
from tests.support.compare import assert_close, assert_same, flat
from tests.support.programs import CPU

D = torch.float64
# Truncation is of the order of epsilon squared, rounding of 1e-16 over epsilon.
PRODUCTS = [(Reverse(), 1e-10), (Forward(), 1e-10), (FiniteDifference(epsilon=1e-4), 1e-6)]
IDS = ["reverse", "forward", "finite_difference"]


class Network(nn.Module):
    """Weights that are used twice, weights that are frozen, weights that nobody uses, and units that saturate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.again = nn.Linear(3, 3, dtype=D), nn.Linear(3, 3, dtype=D)
        self.again.weight = self.inner.weight
        self.frozen = nn.Linear(3, 2, dtype=D).requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(2, dtype=D))
        self.last = nn.Linear(2, 1, dtype=D)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(torch.tanh(self.frozen(torch.tanh(self.again(torch.tanh(self.inner(x)))))))
        return found


def low_loss(batch: Tensor, low: View, up: View, silent: View) -> Tensor:
    fit = (low(batch).squeeze(-1) - up.parameters["goal"].sin()).square()
    decay = sum((leaf.square().sum() for leaf in low.parameters.values()), torch.zeros((), dtype=D))
    return fit.mean() + torch.tanh(up.parameters["decay"]).exp() * decay.sqrt()


def lower(samples: int = 1) -> tuple[Lower, list[nn.Module]]:
    up = ParameterModule({"goal": torch.tensor([0.3, -0.2, 0.9, 0.1], dtype=D), "decay": torch.tensor(0.4, dtype=D)})
    modules = {"low": Network(), "up": up, "silent": ParameterModule({"w": torch.ones(2, dtype=D)})}
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(4, 3, generator=generator, dtype=D) for _ in range(samples)]
    objective = Objective("low", low_loss, modules, takes_batch=True, device=CPU)
    reads = {name: trainable(modules[name]) for name in ("up", "silent")}
    found = Lower("low", objective, [Sample(batch) for batch in batches], trainable(modules["low"]), reads)
    return found, list(modules.values())


def dense(point: Lower, other: str) -> Tensor:
    """The matrix of second derivatives by low's parameters (rows) and another problem's (columns)."""
    columns = point.parameters if other == "low" else point.reads[other]
    rows = []
    losses = [point.objective.live(sample.batch).loss for sample in point.samples]
    gradient = torch.autograd.grad(
        torch.stack(losses).mean(), point.parameters, create_graph=True, allow_unused=True, materialize_grads=True
    )
    for entry in torch.cat([part.reshape(-1) for part in gradient]):
        if not entry.requires_grad:
            rows.append(torch.zeros(sum(leaf.numel() for leaf in columns), dtype=D))
            continue
        found = torch.autograd.grad(entry, columns, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(flat(found))
    return torch.stack(rows)


def direction(point: Lower, seed: int = 2) -> Tree:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(leaf.shape, generator=generator, dtype=D) for leaf in point.parameters)


def linearized(product: Product, point: Lower) -> Linearization:
    return product.linearize(point)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("product", "tolerance"), PRODUCTS, ids=IDS)
def test_products_are_those_of_the_dense_matrices(product: Product, tolerance: float, samples: int) -> None:
    point, _ = lower(samples)
    v, line = direction(point), linearized(product, point)
    with torch.no_grad():
        image, pulled = line.hessian(v), line.pull(v)
    assert [part.shape for part in image] == [leaf.shape for leaf in point.parameters]
    assert_close(flat(image), dense(point, "low") @ flat(v), tolerance)
    assert set(pulled) == {"up", "silent"}
    assert_close(flat(pulled["up"]), dense(point, "up").T @ flat(v), tolerance)


@pytest.mark.parametrize(("product", "tolerance"), PRODUCTS, ids=IDS)
def test_the_hessian_of_torch_agrees(product: Product, tolerance: float) -> None:
    """The dense reference itself, checked once against torch.autograd.functional."""
    point, _ = lower()
    shapes = [leaf.shape for leaf in point.parameters]

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes])
        leaves = tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        return point.objective.pure(point.samples[0], {"low": leaves})

    whole = torch.autograd.functional.hessian(loss, flat(point.parameters))
    assert isinstance(whole, Tensor)
    v = direction(point)
    assert_close(flat(linearized(product, point).hessian(v)), whole @ flat(v), tolerance)


@pytest.mark.parametrize(("product", "tolerance"), PRODUCTS, ids=IDS)
def test_what_the_loss_reads_without_using_it_gains_zeros(product: Product, tolerance: float) -> None:
    point, _ = lower()
    (found,) = linearized(product, point).pull(direction(point))["silent"]
    assert found.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("product", "tolerance"), PRODUCTS, ids=IDS)
def test_a_zero_direction_gives_zeros(product: Product, tolerance: float) -> None:
    point, _ = lower()
    zero, line = tuple(torch.zeros_like(leaf) for leaf in point.parameters), linearized(product, point)
    for part in (*line.hessian(zero), *line.pull(zero)["up"]):
        assert torch.equal(part, torch.zeros_like(part))


@pytest.mark.parametrize(("product", "tolerance"), PRODUCTS, ids=IDS)
def test_parameters_are_left_alone_and_get_no_gradients(product: Product, tolerance: float) -> None:
    point, modules = lower(samples=2)
    leaves = [leaf for module in modules for leaf in module.parameters()]
    before = [leaf.detach().clone() for leaf in leaves]
    line = linearized(product, point)
    line.pull(line.hessian(direction(point)))
    assert_same(leaves, before)
    assert all(leaf.grad is None for leaf in leaves)


@pytest.mark.parametrize(("product", "tolerance"), PRODUCTS, ids=IDS)
def test_a_loss_linear_in_the_lower_has_no_curvature_but_mixed_derivatives(product: Product, tolerance: float) -> None:
    modules = {
        "low": ParameterModule({"w": torch.ones(2, dtype=D)}),
        "up": ParameterModule({"x": torch.ones(2, dtype=D)}),
    }

    def linear(low: View, up: View) -> Tensor:
        return low.parameters["w"] @ up.parameters["x"] + low.parameters["w"].sum()

    objective = Objective("low", linear, modules, takes_batch=False, device=CPU)
    point = Lower("low", objective, [Sample(None)], trainable(modules["low"]), {"up": trainable(modules["up"])})
    line, v = linearized(product, point), (torch.tensor([1.0, -2.0], dtype=D),)
    torch.testing.assert_close(line.hessian(v)[0], torch.zeros(2, dtype=D), atol=1e-9, rtol=0)
    torch.testing.assert_close(line.pull(v)["up"][0], v[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize("epsilon", [1e-2, 1e-3])
def test_the_error_of_differences_falls_with_the_square_of_the_step(epsilon: float) -> None:
    point, _ = lower()
    v = direction(point)
    exact = dense(point, "low") @ flat(v)
    errors = [
        float((flat(FiniteDifference(epsilon=step).linearize(point).hessian(v)) - exact).norm())
        for step in (epsilon, epsilon / 2)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e8])
def test_differences_do_not_depend_on_the_length_of_the_direction(factor: float) -> None:
    """The step has the length epsilon whatever the direction's own length is."""
    point, _ = lower()
    v, line = direction(point), FiniteDifference(epsilon=1e-3).linearize(lower()[0])
    scaled = line.hessian(tuple(factor * part for part in v))
    assert_close(flat(scaled) / factor, flat(line.hessian(v)), 1e-9)
    assert point.parameters[0].requires_grad
