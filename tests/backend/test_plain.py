"""Losses whose gradients have no tangent in torch: forward products are those of double backward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

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


class Passing(TorchDispatchMode):
    """Looks at every operation, as the measuring of memory does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_has_a_tangent(name: str, reduction: str, watched: bool) -> None:
    torch.manual_seed(0)
    at, along, target = torch.randn(3, 5, 2, dtype=torch.float64)
    loss = LOSSES[name]
    with Passing() if watched else nullcontext(), dual_level():  # type: ignore[no-untyped-call]
        (moving,) = duals((at,), (along,))
        moving.requires_grad_()
        value = (loss(moving.tanh(), target, reduction=reduction) ** 2).sum()
        (gradient,) = torch.autograd.grad(value, moving)
        primal, found = forward_ad.unpack_dual(gradient)
    plain = at.clone().requires_grad_()
    exact = (loss(plain.tanh(), target, reduction=reduction) ** 2).sum()
    (first,) = torch.autograd.grad(exact, plain, create_graph=True)
    (second,) = torch.autograd.grad(first, plain, along)
    torch.testing.assert_close(forward_ad.unpack_dual(value).primal.detach(), exact.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(primal, first.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found, second, rtol=1e-12, atol=1e-14)


LAYERS: dict[str, nn.Module] = {
    "silu": nn.SiLU(inplace=True),
    "mish": nn.Mish(),
    "group norm": nn.GroupNorm(2, 4).double(),
    "group norm, plain": nn.GroupNorm(4, 4, eps=1e-3, affine=False),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 4, 3, 3)])
def test_layers_have_a_tangent(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    at, along, weights = torch.randn(3, *shape, dtype=torch.float64)
    layer = LAYERS[name]
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    with dual_level():
        (moving,) = duals((at,), (along,))
        moving.requires_grad_()
        (gradient,) = torch.autograd.grad((weights * layer(moving * 1.5)).sum().exp(), moving)
        primal, found = forward_ad.unpack_dual(gradient)
    plain = at.clone().requires_grad_()
    (first,) = torch.autograd.grad((weights * layer(plain * 1.5)).sum().exp(), plain, create_graph=True)
    (second,) = torch.autograd.grad(first, plain, along)
    torch.testing.assert_close(primal, first.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found, second, rtol=1e-9, atol=1e-12)


def test_arguments_that_are_uncommon_are_left_to_torch() -> None:
    one, other = torch.randn(2, 4)
    weighted = partial(F.mse_loss, one, other, weight=torch.rand(4))  # type: ignore[call-arg]
    before = weighted()
    with dual_level():
        assert torch.equal(weighted(), before)


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
