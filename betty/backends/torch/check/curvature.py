"""What a few Hessian-vector products tell of a Hessian: its extreme eigenvalues, and solutions with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Matrix = Callable[[Tensor], Tensor]
"""``v -> H v`` on vectors ``[n]``, symmetric."""
ROOM = 2**27
"""Numbers that a basis may hold."""
EXHAUSTED = 1e-12
"""A Krylov space is taken to be exhausted where what is new in it is this small beside the Hessian."""


@dataclass(frozen=True, eq=False)
class Krylov:
    """An orthonormal basis of ``span(v, H v, H^2 v, ...)`` and the tridiagonal matrix of ``H`` in it.

    Args:
        basis: ``[k, n]``, rows orthonormal.
        diagonal: ``[k]``.
        beside: ``[k]``; the last entry couples to the vector that would come next, zero where there is none.
        length: Norm of ``v``.
    """

    basis: Tensor
    diagonal: Tensor
    beside: Tensor
    length: float

    @property
    def steps(self) -> int:
        return len(self.diagonal)

    def tridiagonal(self) -> Tensor:
        """``[k + 1, k]``: the matrix with the row that leads out of the space."""
        matrix = torch.zeros(self.steps + 1, self.steps, dtype=self.diagonal.dtype)
        matrix[: self.steps].diagonal().copy_(self.diagonal)
        matrix[: self.steps].diagonal(1).copy_(self.beside[:-1])
        matrix.diagonal(-1).copy_(self.beside)
        return matrix

    def solve(self) -> Tensor:
        """The ``x`` in the space for which ``H x - v`` is smallest; of several the shortest: ``H`` may be singular."""
        right = torch.zeros(self.steps + 1, 1, dtype=self.diagonal.dtype)
        right[0] = self.length
        found: Tensor = torch.linalg.lstsq(self.tridiagonal(), right, rcond=1e-12, driver="gelsd").solution[:, 0]
        return self.basis.mT @ found.to(self.basis)


@dataclass(frozen=True)
class Spectrum:
    """The extreme Ritz values, each with a bound on its distance from an eigenvalue.

    Ritz values lie within the spectrum: a negative one proves negative curvature.
    """

    smallest: float
    largest: float
    smallest_bound: float
    largest_bound: float

    @property
    def size(self) -> float:
        """The largest eigenvalue in absolute value, as far as known."""
        return max(abs(self.smallest), abs(self.largest))


def lanczos(matrix: Matrix, start: Tensor, steps: int) -> Krylov:
    """At most ``steps`` Lanczos steps, every vector made orthogonal to all before it.

    Cost: one product a step; memory: as many vectors, for which steps are left out where they would not fit.
    """
    length = float(start.norm())
    vector = start / length if length else start
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(max(1, min(steps, start.numel(), ROOM // max(1, start.numel())))):
        basis.append(vector)
        image = matrix(vector)
        diagonal.append(float(vector @ image))
        known = torch.stack(basis)
        for _ in range(2):  # once leaves rounding errors that grow
            image = image - known.mT @ (known @ image)
        left = float(image.norm())
        scale = max(abs(value) for value in (*diagonal, *beside, left))
        last = left <= EXHAUSTED * scale
        beside.append(0.0 if last else left)
        if last:
            break
        vector = image / left
    numbers = [torch.tensor(values, dtype=torch.float64) for values in (diagonal, beside)]
    return Krylov(torch.stack(basis), numbers[0], numbers[1], length)


def spectrum(krylov: Krylov) -> Spectrum:
    """Smallest and largest Ritz value. Exact up to rounding where the space is exhausted."""
    values, vectors = torch.linalg.eigh(krylov.tridiagonal()[:-1])
    bounds = (float(krylov.beside[-1]) * vectors[-1].abs()).tolist()
    return Spectrum(float(values[0]), float(values[-1]), bounds[0], bounds[-1])
