"""Losses whose gradients have no tangent in torch, computed by operations whose gradients have one.

``mse_loss`` with a reduction fails in forward over reverse (its formula writes to a tensor of zeros in place), and
``huber_loss`` and ``soft_margin_loss`` have no formula. Values are equal to rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

NAMES = frozenset({"mse_loss", "huber_loss", "soft_margin_loss"})
"""Functions with a substitute, ..."""
MODULES = frozenset({"MSELoss", "HuberLoss", "SoftMarginLoss"})
"""... and the modules that call them."""


def _mse(input: Tensor, target: Tensor, **_: Any) -> Tensor:
    return F.mse_loss(input, target, reduction="none")


def _huber(input: Tensor, target: Tensor, delta: float = 1.0, **_: Any) -> Tensor:
    return delta * F.smooth_l1_loss(input, target, reduction="none", beta=delta)


def _soft_margin(input: Tensor, target: Tensor, **_: Any) -> Tensor:
    return F.softplus(-target * input)


SUBSTITUTES: dict[Any, Callable[..., Tensor]] = {
    F.mse_loss: _mse,
    F.huber_loss: _huber,
    F.soft_margin_loss: _soft_margin,
}
UNCOMMON = ("size_average", "reduce", "weight")
"""Arguments with which torch's own function is left in its place."""


def substitute(function: Any, args: Any, kwargs: Any) -> Callable[[], Tensor] | None:
    """What computes the same in the place of a call, or ``None`` where the call is left as it is."""
    values = SUBSTITUTES.get(function)
    if values is None:
        return None
    given = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    reduction = given.pop("reduction", "mean")
    if any(given.pop(name, None) is not None for name in UNCOMMON) or reduction not in ("mean", "sum"):
        return None
    return partial(_reduced, values, given, reduction)


def _reduced(values: Callable[..., Tensor], given: Mapping[str, Any], reduction: str) -> Tensor:
    found = values(**given)
    return found.mean() if reduction == "mean" else found.sum()
