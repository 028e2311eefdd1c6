"""Losses whose gradients have no tangent in torch: forward products are those of double backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from betty import Engine, Spec
from betty.backends.torch.draws import may_switch
from betty.backends.torch.duals import dual_level, duals

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss,
    "mse module": lambda one, other, **options: nn.MSELoss(**options)(one, other),
    "huber": lambda one, other, **options: F.huber_loss(one, other, delta=0.7, **options),
    "huber module": lambda one, other, **options: nn.HuberLoss(delta=0.7, **options)(one, other),
    "soft margin": lambda one, other, **options: F.soft_margin_loss(one, other.sign(), **options),
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_has_a_tangent(name: str, reduction: str) -> None:
    torch.manual_seed(0)
    at, along, target = torch.randn(3, 5, 2, dtype=torch.float64)
    loss = LOSSES[name]
    with dual_level():
        (moving,) = duals((at,), (along,))
        moving.requires_grad_()
        value = loss(moving.tanh(), target, reduction=reduction)
        (gradient,) = torch.autograd.grad(value, moving)
        primal, found = forward_ad.unpack_dual(gradient)
    plain = at.clone().requires_grad_()
    exact = loss(plain.tanh(), target, reduction=reduction)
    (first,) = torch.autograd.grad(exact, plain, create_graph=True)
    (second,) = torch.autograd.grad(first, plain, along)
    torch.testing.assert_close(forward_ad.unpack_dual(value).primal.detach(), exact.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(primal, first.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found, second, rtol=1e-12, atol=1e-14)


def test_arguments_that_are_uncommon_are_left_to_torch() -> None:
    one, other = torch.randn(2, 4)
    huber = F.huber_loss(one, other, reduction="none", delta=0.3)
    with dual_level():
        assert torch.equal(F.mse_loss(one, other, reduction="none"), (one - other) ** 2)
        assert torch.equal(F.huber_loss(one, other, reduction="none", delta=0.3), huber)


def lower_loss(batch: Any, model: Any, decay: Any) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1]) + (decay.parameters["log"].exp() * model.weight**2).sum()


def upper_loss(batch: Any, model: Any) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


@pytest.mark.parametrize("method", ["cg", "forward_mode"])
def test_a_spec_with_mse_loss_takes_forward_products(method: str) -> None:
    torch.manual_seed(0)
    batch = torch.randn(8, 3), torch.randn(8, 1)
    half = {"inverse": {"name": "cg", "iterations": 3}, "product": "forward"} if method == "cg" else method
    spec = {
        "name": "plain",
        "problems": {
            "model": {
                "module": {"target": nn.Linear(3, 1)},
                "loss": {"target": lower_loss},
                "data": {"target": [batch]},
                "optimizer": {"target": "torch.optim.SGD", "lr": 0.1},
            },
            "decay": {
                "parameters": {"log": {"shape": [3], "init": -1.0}},
                "loss": {"target": upper_loss},
                "data": {"target": [batch]},
                "optimizer": {"target": "torch.optim.SGD", "lr": 0.1},
            },
        },
        "edges": [{"upper": "decay", "lower": "model", "method": half}],
        "engine": {"device": "cpu", "precision": "fp64"},
    }
    engine = Engine(Spec.model_validate(spec))
    facts = engine.graph.problem("model").facts
    assert facts is not None and facts.forward
    engine.run(3)
    assert engine.hypergradient("decay")["log"].abs().sum() > 0


def test_losses_without_a_need_are_not_watched() -> None:
    assert may_switch(lower_loss, [nn.Linear(1, 1)]) and may_switch(lambda one: one, [nn.MSELoss()])
    assert not may_switch(lambda batch, model: model(batch).sum(), [nn.Linear(1, 1)])
