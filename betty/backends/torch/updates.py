"""Optimiser updates as differentiable functions of parameters, gradients and state.

One function per optimiser, equal to ``torch.optim`` to rounding. ``torch.optim``'s own ``differentiable=True`` is
not used: it detaches SGD's momentum buffer, and Adam's square root has an infinite slope at a gradient of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

State = dict[str, Tensor]
Group = Mapping[str, Any]
Rule = Callable[[Tensor, Tensor, State, Group], tuple[Tensor, State]]
"""(parameter, gradient, state, hyperparameters) -> (parameter, state), out of place."""


def sgd(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    if group["maximize"]:
        gradient = -gradient
    if group["weight_decay"]:
        gradient = gradient + group["weight_decay"] * parameter
    if not group["momentum"]:
        return parameter - group["lr"] * gradient, {}
    before = state.get("momentum_buffer")
    # The first update takes the gradient itself, without dampening, as torch.optim.SGD does.
    buffer = gradient if before is None else group["momentum"] * before + (1 - group["dampening"]) * gradient
    direction = gradient + group["momentum"] * buffer if group["nesterov"] else buffer
    return parameter - group["lr"] * direction, {"momentum_buffer": buffer}


def adam(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """Adam; weight decay is part of the gradient unless the group says ``decoupled_weight_decay``."""
    beta1, beta2 = group["betas"]
    if group["maximize"]:
        gradient = -gradient
    if group["weight_decay"] and group.get("decoupled_weight_decay"):
        parameter = parameter * (1 - group["lr"] * group["weight_decay"])
    elif group["weight_decay"]:
        gradient = gradient + group["weight_decay"] * parameter
    step = float(state["step"]) + 1 if "step" in state else 1.0
    zero = torch.zeros_like(parameter)
    mean = beta1 * state.get("exp_avg", zero) + (1 - beta1) * gradient
    square = beta2 * state.get("exp_avg_sq", zero) + (1 - beta2) * gradient * gradient
    after = {"step": torch.tensor(step), "exp_avg": mean, "exp_avg_sq": square}
    if group["amsgrad"]:
        after["max_exp_avg_sq"] = largest = torch.maximum(state.get("max_exp_avg_sq", zero), square)
        square = largest
    scale = _root(square) / (1 - beta2**step) ** 0.5 + group["eps"]
    return parameter - group["lr"] / (1 - beta1**step) * mean / scale, after


def adamw(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """Adam with decoupled weight decay; before torch 2.7 the groups of AdamW do not say so themselves."""
    return adam(parameter, gradient, state, {**group, "decoupled_weight_decay": True})


def _root(square: Tensor) -> Tensor:
    """The square root with slope 0 at 0: a coordinate whose gradient has always been zero stays out of the product."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), square)


RULES: dict[type[Optimizer], Rule] = {SGD: sgd, Adam: adam, AdamW: adamw}


def rule_for(optimizer: Optimizer) -> Rule | None:
    """The differentiable update of exactly this class of optimiser; ``None`` where there is none."""
    return RULES.get(type(optimizer))


def clip(gradient: tuple[Tensor, ...], largest: float | None) -> tuple[Tensor, ...]:
    """The gradient scaled to a norm of at most ``largest``, as ``clip_grad_norm_`` does, differentiably."""
    if largest is None:
        return gradient
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in gradient]))
    factor = (largest / (total + 1e-6)).clamp(max=1.0)
    return tuple(part * factor for part in gradient)
