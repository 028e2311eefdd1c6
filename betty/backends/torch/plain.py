"""Functions whose gradients have no tangent in torch, computed by operations whose gradients have one.

``mse_loss`` fails in forward over reverse (its formula writes to a tensor of zeros in place, and crashes under a
dispatch mode such as the one that measures memory); the others have no formula. Values are equal to rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _mse(input: Tensor, target: Tensor) -> Tensor:
    return (input - target) ** 2


def _huber(input: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    size = (input - target).abs()
    return torch.where(size < delta, 0.5 * size**2, delta * (size - 0.5 * delta))


def _soft_margin(input: Tensor, target: Tensor) -> Tensor:
    return F.softplus(-target * input)


def _silu(input: Tensor, inplace: bool = False) -> Tensor:
    del inplace
    return input * torch.sigmoid(input)


def _mish(input: Tensor, inplace: bool = False) -> Tensor:
    del inplace
    return input * torch.tanh(F.softplus(input))


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    grouped = input.reshape(len(input), num_groups, -1)
    found = ((grouped - grouped.mean(-1, True)) / (grouped.var(-1, False, True) + eps).sqrt()).reshape(input.shape)
    shape = (1, -1, *[1] * (input.ndim - 2))
    found = found if weight is None else found * weight.reshape(shape)
    return found if bias is None else found + bias.reshape(shape)


LOSSES: dict[Any, Callable[..., Tensor]] = {
    F.mse_loss: _mse,
    F.huber_loss: _huber,
    F.soft_margin_loss: _soft_margin,
}
"""Pointwise values, to which a reduction is applied."""
LAYERS: dict[Any, Callable[..., Tensor]] = {F.silu: _silu, F.mish: _mish, F.group_norm: _group_norm}
NAMES = frozenset(function.__name__ for function in (*LOSSES, *LAYERS))
"""Functions with a substitute, ..."""
MODULES = frozenset({"MSELoss", "HuberLoss", "SoftMarginLoss", "SiLU", "Mish", "GroupNorm"})
"""... and the modules that call them."""
UNCOMMON = ("size_average", "reduce", "weight")
"""Arguments with which torch's own loss is left in its place."""


def substitute(function: Any, args: Any, kwargs: Any) -> Callable[[], Tensor] | None:
    """What computes the same in the place of a call, or ``None`` where the call is left as it is."""
    if function in LAYERS:
        return partial(LAYERS[function], *args, **kwargs)
    if function not in LOSSES:
        return None
    given = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    reduction = given.pop("reduction", "mean")
    if any(given.pop(name, None) is not None for name in UNCOMMON):
        return None
    return partial(_reduced, LOSSES[function], given, reduction)


def _reduced(values: Callable[..., Tensor], given: Mapping[str, Any], reduction: str) -> Tensor:
    found = values(**given)
    return found.mean() if reduction == "mean" else found.sum() if reduction == "sum" else found
