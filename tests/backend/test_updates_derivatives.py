"""Derivatives of unrolled updates by the initial parameters and by the optimiser's hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from betty.backends.torch.updates import RULES
from tests.support.compare import assert_close, flat, relative_error
from tests.support.optimizers import EVERY_CASE, D, OptimizerCase, leaves_for, unrounded

STEP = 1e-5
Hypers = Mapping[str, Any]


@pytest.fixture(autouse=True, scope="module")
def smooth() -> Iterator[None]:
    """Double precision throughout: of Muon's iterations, and of the scalars that an optimiser keeps."""
    with pytest.MonkeyPatch.context() as patch:
        unrounded(patch)
        torch.set_default_dtype(D)
        yield
        torch.set_default_dtype(torch.float32)


@dataclass
class Toy:
    """A coupled loss of all parameters, several updates of an optimiser, and a number made of where they lead."""

    case: OptimizerCase
    steps: int
    seed: int
    curvature: float = 1.0

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.start = [leaf.detach() for leaf in leaves_for(self.case)]
        size = sum(leaf.numel() for leaf in self.start)
        root = torch.randn(size, size, dtype=D)
        self.matrix = self.curvature * root @ root.T / size
        self.offset, self.weights = torch.randn(2, size, dtype=D)

    def loss(self, leaves: list[Tensor]) -> Tensor:
        z = torch.cat([leaf.reshape(-1) for leaf in leaves])
        return 0.5 * z @ self.matrix @ z - self.offset @ z + 0.3 * torch.sin(2 * z).sum()

    def result(self, leaves: list[Tensor]) -> Tensor:
        z = torch.cat([leaf.reshape(-1) for leaf in leaves])
        return self.weights @ z + 0.1 * z.square().sum()

    def by_torch(self, start: list[Tensor], hypers: Hypers) -> float:
        leaves = [nn.Parameter(leaf.detach().clone()) for leaf in start]
        optimizer = self.case.make(leaves)
        optimizer.param_groups[0].update(hypers)
        for _ in range(self.steps):
            optimizer.zero_grad()
            self.loss(list(leaves)).backward()
            optimizer.step()
        return float(self.result(list(leaves)).detach())

    def by_rule(self, start: list[Tensor], hypers: Hypers) -> Tensor:
        known = [nn.Parameter(leaf.detach().clone()) for leaf in start]
        optimizer = self.case.make(known)
        group = {**optimizer.param_groups[0], **hypers}
        states, leaves = [dict(optimizer.state.get(leaf, {})) for leaf in known], start
        for _ in range(self.steps):
            leaves = [leaf if leaf.requires_grad else leaf.detach().requires_grad_() for leaf in leaves]
            gradient = torch.autograd.grad(self.loss(leaves), leaves, create_graph=True)
            moved = [
                RULES[self.case.kind](leaf, part, state, group)
                for leaf, part, state in zip(leaves, gradient, states, strict=True)
            ]
            leaves, states = [leaf for leaf, _ in moved], [state for _, state in moved]
        return self.result(leaves)


def by_initial(toy: Toy, step: float) -> Tensor:
    """The derivative by the initial parameters, by central differences of torch.optim."""
    found = []
    for index, leaf in enumerate(toy.start):
        for place in range(leaf.numel()):
            ahead, behind = [[other.clone() for other in toy.start] for _ in range(2)]
            ahead[index].view(-1)[place] += step
            behind[index].view(-1)[place] -= step
            found.append((toy.by_torch(ahead, {}) - toy.by_torch(behind, {})) / (2 * step))
    return torch.tensor(found, dtype=D)


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
@settings(max_examples=8)
@given(data=st.data())
def test_by_the_initial_parameters(kind: type[Optimizer], data: st.DataObject) -> None:
    """Problems across whose differences a maximum changes its argument are passed over."""
    toy = Toy(
        data.draw(st.sampled_from([case for case in EVERY_CASE if case.kind is kind])),
        steps=data.draw(st.integers(1, 8)),
        seed=data.draw(st.integers(0, 999)),
        curvature=data.draw(st.sampled_from([0.1, 1.0, 2.0])),
    )
    exact, coarser = by_initial(toy, STEP), by_initial(toy, 2 * STEP)
    assume(relative_error(coarser, exact) < 1e-6)
    start = [leaf.clone().requires_grad_() for leaf in toy.start]
    assert_close(flat(torch.autograd.grad(toy.by_rule(start, {}), start)), exact, 2e-6)


SMOOTH = (
    "lr",
    "momentum",
    "dampening",
    "weight_decay",
    "betas",
    "eps",
    "alpha",
    "rho",
    "lambd",
    "momentum_decay",
    "lr_decay",
    "beta2_decay",
    "d",
    "ns_coefficients",
)


def hypers_of(case: OptimizerCase) -> list[tuple[str, int | None]]:
    """Names of the case's smooth hyperparameters, with the place in those that are tuples."""
    group = case.make(leaves_for(case)).param_groups[0]
    found: list[tuple[str, int | None]] = []
    for name in SMOOTH:
        value = group.get(name)
        if isinstance(value, tuple):
            found += [(name, place) for place, part in enumerate(value) if part is not None]
        elif value is not None:
            found.append((name, None))
    return found


def replaced(group: Mapping[str, Any], name: str, place: int | None, change: Callable[[float], Any]) -> dict[str, Any]:
    """The hyperparameter, changed."""
    if place is None:
        return {name: change(float(group[name]))}
    return {name: tuple(change(part) if at == place else part for at, part in enumerate(group[name]))}


HYPERS = [(case, name, place) for case in EVERY_CASE for name, place in hypers_of(case)]


@pytest.mark.parametrize(("case", "name", "place"), HYPERS, ids=str)
def test_by_hyperparameters(case: OptimizerCase, name: str, place: int | None) -> None:
    """Six updates; forward differences of second order where the hyperparameter is 0, below which it may not lie."""
    toy = Toy(case, steps=6, seed=7, curvature=0.2)
    group = case.make(leaves_for(case)).param_groups[0]

    def at(change: float) -> float:
        return toy.by_torch(toy.start, replaced(group, name, place, lambda value: value + change))

    value = float(group[name] if place is None else group[name][place])
    central = (at(STEP) - at(-STEP)) / (2 * STEP) if value else (4 * at(STEP) - 3 * at(0) - at(2 * STEP)) / (2 * STEP)
    leaf = torch.tensor(value, dtype=D, requires_grad=True)
    result = toy.by_rule(toy.start, replaced(group, name, place, lambda _: leaf))
    assert float(result.detach()) == pytest.approx(at(0), rel=1e-10)
    (found,) = torch.autograd.grad(result, leaf, materialize_grads=True)
    assert float(found) == pytest.approx(central, rel=1e-5, abs=1e-7)
