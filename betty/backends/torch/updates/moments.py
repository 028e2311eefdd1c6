"""Updates by a running mean of gradients over the root of a running mean of their squares: Adam and its relatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Adam, Adamax, AdamW, NAdam, Optimizer, RAdam

from betty.backends.torch.updates.common import (
    Group,
    Hyper,
    Rule,
    State,
    advanced,
    decayed,
    exact,
    home,
    kept,
    moved,
    root,
    scalar,
    signed,
)

RECTIFIED_FROM = 5.0
"""Length of the average from which on RAdam trusts the second moment."""


def adam(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """Adam; weight decay is part of the gradient unless the group says ``decoupled_weight_decay``."""
    beta1, beta2 = group["betas"]
    parameter, gradient = decayed(parameter, signed(gradient, group), group)
    after, step = _moments(parameter, gradient, state, group)
    square = after["exp_avg_sq"]
    if group["amsgrad"]:
        after["max_exp_avg_sq"] = square = torch.maximum(kept(state, "max_exp_avg_sq", parameter), square)
    scale = root(square) / (1 - beta2**step) ** 0.5 + group["eps"]
    return parameter - group["lr"] / (1 - beta1**step) * after["exp_avg"] / scale, after


def adamw(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """Adam with decoupled weight decay; before torch 2.7 the groups of AdamW do not say so themselves."""
    return adam(parameter, gradient, state, {**group, "decoupled_weight_decay": True})


def nadam(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """Adam with Nesterov momentum, whose weight ``mu`` grows from half of ``beta1`` to all of it."""
    beta1, beta2 = group["betas"]
    parameter, gradient = decayed(parameter, signed(gradient, group), group)
    after, step = _moments(parameter, gradient, state, group)
    weight, following = (_nesterov(beta1, group["momentum_decay"], at) for at in (step, step + 1))
    before = state["mu_product"] if "mu_product" in state else scalar(1.0, home(parameter, group))
    after["mu_product"] = before * weight
    product = exact(after["mu_product"])
    scale = root(after["exp_avg_sq"] / (1 - beta2**step)) + group["eps"]
    now = (1 - weight) / (1 - product) * gradient
    ahead = following / (1 - product * following) * after["exp_avg"]
    return parameter - group["lr"] * (now + ahead) / scale, after


def _nesterov(beta: Hyper, decay: Hyper, step: float) -> Hyper:
    return beta * (1 - 0.5 * 0.96 ** (step * decay))


def radam(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """Adam that follows the plain mean until enough squares have been averaged, and is rectified from then on."""
    beta1, beta2 = group["betas"]
    parameter, gradient = decayed(parameter, signed(gradient, group), group)
    after, step = _moments(parameter, gradient, state, group)
    mean, correction = after["exp_avg"] / (1 - beta1**step), 1 - beta2**step
    limit = 2 / (1 - beta2) - 1
    length = limit - 2 * step * beta2**step / correction
    if bool(length > RECTIFIED_FROM):
        rectified = ((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)) ** 0.5
        mean = mean * (rectified * correction**0.5) / (root(after["exp_avg_sq"]) + group["eps"])
    return parameter - group["lr"] * mean, after


def adamax(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """Adam with the largest recent gradient in place of the second moment; ``eps`` is part of that."""
    beta1, beta2 = group["betas"]
    parameter, gradient = decayed(parameter, signed(gradient, group), group)
    counted, step = advanced(state, home(parameter, group))
    mean = moved(kept(state, "exp_avg", parameter), gradient, 1 - beta1)
    bound = torch.maximum(kept(state, "exp_inf", parameter) * beta2, gradient.abs() + group["eps"])
    result = parameter - group["lr"] / (1 - beta1**step) * mean / bound
    return result, {"step": counted, "exp_avg": mean, "exp_inf": bound}


def _moments(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[State, float]:
    """The state after this update as Adam keeps it, and the number of the update."""
    beta1, beta2 = group["betas"]
    counted, step = advanced(state, home(parameter, group))
    mean = moved(kept(state, "exp_avg", parameter), gradient, 1 - beta1)
    square = beta2 * kept(state, "exp_avg_sq", parameter) + (1 - beta2) * gradient * gradient
    return {"step": counted, "exp_avg": mean, "exp_avg_sq": square}, step


RULES: dict[type[Optimizer], Rule] = {Adam: adam, AdamW: adamw, NAdam: nadam, RAdam: radam, Adamax: adamax}
