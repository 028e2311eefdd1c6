"""Gradients in half precision: the loss is scaled up before the backward pass, and what comes out is scaled down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer


def gradient_of(loss: Tensor, by: Sequence[Tensor], scaler: Any, **options: Any) -> tuple[Any, ...]:
    """``torch.autograd.grad`` of a loss, scaled for the time of the backward pass where there is a ``GradScaler``.

    The smallest number of half precision is 6e-8: gradients below it would vanish on their way.
    """
    if scaler is None:
        return torch.autograd.grad(loss, by, **options)
    with torch.enable_grad():
        scaled = scaler.scale(loss)
    found = cast("Sequence[Tensor | None]", torch.autograd.grad(scaled, by, **options))
    factor = scaler.get_scale()
    return tuple(part if part is None else part / factor for part in found)


def move(optimizer: Optimizer, scaler: Any) -> None:
    """A step of the optimiser on the gradients in ``.grad``; none where one is not finite, and a smaller scale then."""
    if scaler is None:
        optimizer.step()
        return
    factor = scaler.get_scale()  # what is in .grad has been scaled down already
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad = parameter.grad * factor
    scaler.step(optimizer)
    scaler.update()
