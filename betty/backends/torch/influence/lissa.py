"""The stochastic Neumann series of an inverse curvature."""

from __future__ import annotations

import torch
from torch import Tensor

from betty.backends.torch.errors import RunError
from betty.backends.torch.influence.curvature import Curvature


def series(
    curvature: Curvature, rows: Tensor, *, damping: float, iterations: int, repeat: int, scale: float, seed: int
) -> Tensor:
    """LiSSA: ``h <- v + (I - (H_b + damping) / scale) h`` over random batches ``b``; ``h / scale`` is the result.

    Inexact: the mean over batches is right in the limit, and a finite number of iterations leaves out directions of a
    curvature below about ``scale / iterations``. With one batch it is the Neumann series.

    Args:
        curvature: Of the training loss, and of single batches of it.
        rows: ``[m, size]``.
        damping: Absolute.
        iterations: Terms.
        repeat: Series that are averaged.
        scale: Above the largest eigenvalue of every batch; 0 for one and a half times the largest that a few power
            iterations find.
        seed: Of the order of batches.

    Raises:
        RunError: The series grows: ``scale`` is below the largest eigenvalue.

    Reference: Agarwal, Bullins and Hazan (2017), arXiv:1602.03943; Koh and Liang (2017), arXiv:1703.04730, section 3.
    """
    top = scale or 1.5 * _largest(curvature, rows, seed) + damping
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(rows)
    for _ in range(repeat):
        found = rows.clone()
        for _ in range(iterations):
            place = int(torch.randint(len(curvature.batches), (1,), generator=generator))
            found = rows + found - (curvature.product(found, place) + damping * found) / top
        total += found / top
    if not bool(total.isfinite().all()):
        raise RunError(f"lissa: the series grows without end: expected scale above {top:.3g}, or 0 to have one found")
    return total / repeat


def _largest(curvature: Curvature, rows: Tensor, seed: int, steps: int = 10) -> float:
    """The largest eigenvalue of any batch, by power iteration."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(curvature.size, generator=generator).to(rows)
    best = 0.0
    for place in range(len(curvature.batches)):
        vector = start / start.norm()
        for _ in range(steps):
            image = curvature.product(vector, place)
            value = float(image.norm())
            if value == 0.0:
                break
            vector = image / value
        best = max(best, value)
    return best
