"""Differentiable updates are torch.optim's own: parameters, the state that is left, and how either goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, Rprop

from betty.backends.torch.updates import RULES, clip, rule_for
from betty.ir.passes.methods import DIFFERENTIABLE_OPTIMIZERS
from tests.support.compare import assert_close, assert_same, flat
from tests.support.optimizers import EVERY_CASE, OPTIMIZER_CASES, OptimizerCase
from tests.support.unrolling import Lower, hypergradient


def state_of(optimizer: Optimizer, module: nn.Module) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in optimizer.state[leaf].items() if value is not None}
        for leaf in module.parameters()
    ]


@pytest.mark.parametrize(("accumulation", "clipping"), [(1, None), (2, 0.3)])
@pytest.mark.parametrize("case", OPTIMIZER_CASES, ids=str)
def test_equals_torch_optim_before_while_and_after(
    case: OptimizerCase, accumulation: int, clipping: float | None
) -> None:
    """Two updates of torch, four differentiable ones and two of torch again, against eight of torch."""
    ours = Lower(case, accumulation, clipping)
    theirs = ours.twin()
    ours.torch_steps(2)
    ours.live(steps=3).follow(["low"] * 4 * accumulation)
    theirs.torch_steps(6)
    for found, expected in zip(state_of(ours.optimizer, ours.low), state_of(theirs.optimizer, theirs.low), strict=True):
        assert set(found) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-11, atol=1e-14)
    ours.done = 6
    ours.torch_steps(2)
    theirs.torch_steps(2)
    assert_close(flat(list(ours.low.parameters())), flat(list(theirs.low.parameters())), 1e-12)


def test_torch_may_take_over_without_spoiling_the_tape() -> None:
    """torch.optim updates state in place; the graphs of the kept updates must not see that."""
    for case in OPTIMIZER_CASES:
        toy = Lower(case)
        built = toy.live(steps=2)
        built.follow(["low"] * 3)
        before, parameters = hypergradient(built), [leaf.detach().clone() for leaf in toy.low.parameters()]
        toy.done = 3
        toy.torch_steps(2)
        with torch.no_grad():
            for leaf, value in zip(toy.low.parameters(), parameters, strict=True):
                leaf.copy_(value)
        assert_same([hypergradient(built)], [before])


def test_exactly_these_classes_have_rules() -> None:
    class MySGD(SGD):
        """May have overridden ``step``."""

    leaf = [nn.Parameter(torch.zeros(2))]
    assert {case.kind for case in EVERY_CASE} == set(RULES)
    assert rule_for(MySGD(leaf)) is None
    assert rule_for(Rprop(leaf)) is None


def test_the_compiler_knows_which_classes_have_rules() -> None:
    """Adafactor and Muon are newer than the oldest torch that is supported."""
    names = {kind.__name__ for kind in RULES}
    assert names | {"Adafactor", "Muon"} == set(DIFFERENTIABLE_OPTIMIZERS)


def test_what_torch_has_and_has_no_rule_is_what_is_known_to_have_none() -> None:
    classes = {kind for kind in vars(torch.optim).values() if isinstance(kind, type) and issubclass(kind, Optimizer)}
    assert {kind.__name__ for kind in classes - set(RULES)} == {"Optimizer", "Rprop", "SparseAdam", "LBFGS"}


def test_adamw_decouples_its_weight_decay_whatever_its_group_says() -> None:
    """Before torch 2.7 AdamW was no Adam, and its groups did not say how they decay."""
    leaf = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer, gradient = AdamW([leaf], lr=0.1, weight_decay=0.5), torch.full((3,), 0.2, dtype=torch.float64)
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "decoupled_weight_decay"}
    moved, _ = RULES[AdamW](leaf.detach().clone(), gradient, {}, group)
    leaf.grad = gradient
    optimizer.step()
    torch.testing.assert_close(moved, leaf.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("largest", [0.1, 1.0, 1e3, None])
def test_clipping_is_torchs(largest: float | None) -> None:
    gradient = [torch.randn(3, 2), torch.randn(4), torch.zeros(1)]
    leaves = [nn.Parameter(torch.zeros_like(part)) for part in gradient]
    for leaf, part in zip(leaves, gradient, strict=True):
        leaf.grad = part.clone()
    if largest is not None:
        nn.utils.clip_grad_norm_(leaves, largest)
    found = clip(tuple(gradient), largest)
    for part, leaf in zip(found, leaves, strict=True):
        torch.testing.assert_close(part, leaf.grad, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_has_a_finite_slope_where_a_gradient_has_always_been_zero(amsgrad: bool) -> None:
    parameter, gradient = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    group = Adam([parameter], amsgrad=amsgrad).param_groups[0]
    moved, _ = RULES[Adam](parameter, gradient, {}, group)
    slopes = torch.autograd.grad(moved.sum(), [parameter, gradient])
    assert all(torch.isfinite(slope).all() for slope in slopes)


def test_parameters_that_the_optimizer_does_not_hold_stay_where_they_are() -> None:
    """As with torch.optim, an optimiser may be given a part of the module."""
    toy = Lower(OPTIMIZER_CASES[0])
    toy.optimizer = SGD(list(toy.low.parameters())[2:], lr=0.1)
    before = [leaf.detach().clone() for leaf in toy.low.parameters()]
    built = toy.live(steps=2)
    built.follow(["low", "low"])
    after = [leaf.detach() for leaf in toy.low.parameters()]
    assert_same(after[:2], before[:2])
    assert all(not torch.equal(one, other) for one, other in zip(after[2:], before[2:], strict=True))
    assert bool(hypergradient(built).norm() > 0)
