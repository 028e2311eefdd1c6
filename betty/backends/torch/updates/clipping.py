"""Clipping of gradients, differentiably."""

from __future__ import annotations

import torch
from torch import Tensor

from betty.backends.torch.tree import entire


def clip(gradient: tuple[Tensor, ...], largest: float | None) -> tuple[Tensor, ...]:
    """The gradient scaled to a norm of at most ``largest``, as ``clip_grad_norm_`` does, differentiably."""
    if largest is None:
        return gradient
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in gradient]))
    factor = (largest / (entire(total) + 1e-6)).clamp(max=1.0)
    return tuple(part * factor for part in gradient)
