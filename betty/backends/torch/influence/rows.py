"""Conjugate gradients for many right-hand sides at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solved:
    """Solutions and how their solves ended.

    Args:
        value: ``[m, size]``.
        residual: Relative, ``[m]``.
        bent: Solves that met a direction of negative curvature.
        iterations: That were made.
    """

    value: Tensor
    residual: Tensor
    bent: int
    iterations: int


def conjugate_gradients(product: Callable[[Tensor], Tensor], rows: Tensor, iterations: int, tolerance: float) -> Solved:
    """Row by row what :class:`betty.backends.torch.methods.cg.CG` gives, with one product an iteration for all rows.

    Each row has step lengths of its own, and leaves the product when it has arrived; a row that meets negative
    curvature keeps what it has.

    Args:
        product: ``[m, size] -> [m, size]``, the damped curvature times each row.
        rows: Right-hand sides ``[m, size]``.
        iterations: Most iterations.
        tolerance: Stop at this relative residual.

    Reference: Hestenes and Stiefel (1952).
    """
    value, residual = torch.zeros_like(rows), rows.clone()
    direction, left = rows.clone(), rows.square().sum(1)
    whole = left.clone()
    active = (left > tolerance**2 * whole).nonzero().flatten()
    bent, taken = 0, 0
    while taken < iterations and len(active):
        along = direction[active]
        image = product(along)
        curvature = (along * image).sum(1)
        good = curvature > 0  # not so where it is no number either
        bent += int((~good).sum())
        if not bool(good.all()):
            active, along, image, curvature = active[good], along[good], image[good], curvature[good]
            if not len(active):
                break
        length = (left[active] / curvature).unsqueeze(1)
        value[active] += length * along
        residual[active] -= length * image
        now = residual[active].square().sum(1)
        direction[active] = residual[active] + (now / left[active]).unsqueeze(1) * along
        left[active] = now
        active = active[now > tolerance**2 * whole[active]]
        taken += 1
    return Solved(value, (left / whole.clamp(min=torch.finfo(rows.dtype).tiny)).sqrt(), bent, taken)
