"""The whole Hessian and a direct solve."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.methods.base import NO_AID, Aid, Inverse, Operator, Solution, Status
from betty.backends.torch.tree import Tree, flatten, unflatten


@dataclass(frozen=True, kw_only=True)
class Dense(Inverse):
    """Solve ``(H + damping I) q = v`` with the Hessian itself, column by column, and LU.

    Exact up to rounding; where the matrix is singular, the least-squares solution of least norm. The reference for
    small lowers.

    Cost: as many Hessian-vector products as the lower has parameters, and the cube of that number. Memory: its
    square.

    Args:
        damping: Added to every eigenvalue.
        limit: Most parameters; the compiler refuses larger lowers.
    """

    damping: float = 0.0
    limit: int = 5000

    def solve(self, hessian: Operator, v: Tree, aid: Aid = NO_AID) -> Solution:
        del aid
        flat = flatten(v)
        if not flat.numel():
            return Solution(v)
        matrix = hessian_matrix(hessian, v)
        matrix.diagonal().add_(self.damping)
        solution = _solved(matrix, flat)
        residual = torch.linalg.vector_norm(matrix @ solution - flat) / torch.linalg.vector_norm(flat).clamp_min(
            torch.finfo(flat.dtype).tiny
        )
        status = Status.OK if bool(torch.isfinite(solution).all()) else Status.NONFINITE
        stats = {"iterations": float(flat.numel()), "residual": residual}
        return Solution(unflatten(solution, v), status, stats)


def hessian_matrix(hessian: Operator, like: Tree) -> Tensor:
    """``H`` in full, made symmetric, from its products with the unit vectors."""
    size = sum(leaf.numel() for leaf in like)
    columns = []
    for index in range(size):
        unit = torch.zeros(size, dtype=like[0].dtype, device=like[0].device)
        unit[index] = 1.0
        columns.append(flatten(hessian(unflatten(unit, like))))
    matrix = torch.stack(columns, dim=1)
    return (matrix + matrix.mT) / 2


def _solved(matrix: Tensor, flat: Tensor) -> Tensor:
    if not bool(torch.isfinite(matrix).all()):
        return torch.full_like(flat, torch.nan)
    factors, pivots, info = torch.linalg.lu_factor_ex(matrix)
    steps = factors.diagonal().abs()
    # A pivot at the level of rounding: the system has no solution, or many, of which LU takes any.
    regular = bool(steps.min() > len(flat) * torch.finfo(flat.dtype).eps * steps.max())
    if int(info) == 0 and regular:
        solution: Tensor = torch.linalg.lu_solve(factors, pivots, flat[:, None])[:, 0]
        return solution
    shortest: Tensor = torch.linalg.pinv(matrix, hermitian=True) @ flat
    return shortest
