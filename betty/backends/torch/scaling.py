"""Gradients in half precision: the loss is scaled up before the backward pass, and what comes out is scaled down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

SMALLEST = 2.0**-14
"""The smallest normal number of half precision: a loss that is scaled by less is not too large, but broken."""


def factor_of(scaler: Any, like: Tensor) -> Tensor | None:
    """By what a scaler multiplies a loss, as a number on its device; ``None`` where there is no scaler."""
    if scaler is None:
        return None
    with torch.no_grad():
        return cast("Tensor", scaler.scale(torch.ones((), device=like.device)))


def gradient_of(loss: Tensor, by: Sequence[Tensor], scaler: Any, **options: Any) -> tuple[Any, ...]:
    """``torch.autograd.grad`` of a loss, scaled for the time of the backward pass where there is a ``GradScaler``.

    The smallest number of half precision is 6e-8: gradients below it would vanish on their way.
    """
    return scaled_gradient(loss, by, factor_of(scaler, loss), **options)


def scaled_gradient(loss: Tensor, by: Sequence[Tensor], factor: Tensor | None, **options: Any) -> tuple[Any, ...]:
    """The same with a given factor; ``None`` is none."""
    if factor is None:
        return torch.autograd.grad(loss, by, **options)
    with torch.enable_grad():
        scaled = loss * factor
    found = cast("Sequence[Tensor | None]", torch.autograd.grad(scaled, by, **options))
    return tuple(part if part is None else part / factor for part in found)


def grow(scaler: Any, parameters: Sequence[Tensor]) -> None:
    """Tell a scaler of an update that was made."""
    _tell(scaler, parameters[0].device, 0.0)


def back_off(scaler: Any, parameters: Sequence[Tensor]) -> None:
    """Tell a scaler of an update that was left out: its scale shrinks."""
    _tell(scaler, parameters[0].device, torch.inf)


def _tell(scaler: Any, device: torch.device, gradient: float) -> None:
    # A scaler finds out for itself whether gradients are finite, in an optimiser's parameters: one of its own, that
    # stands for all, since these gradients are scaled down already.
    stand_in = torch.zeros(1, device=device, requires_grad=True)
    stand_in.grad = torch.full((1,), gradient, device=device)
    scaler.scale(stand_in.grad)
    scaler.unscale_(torch.optim.SGD([stand_in]))
    scaler.update()
