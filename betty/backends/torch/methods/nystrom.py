"""The inverse of a low-rank sketch of the Hessian plus damping."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.methods.base import NO_AID, Aid, Inverse, Operator, Solution, Status
from betty.backends.torch.tree import Tree, flatten, unflatten


@dataclass(frozen=True, kw_only=True)
class Nystrom(Inverse):
    r"""Take ``H`` for its Nystrom approximation from ``rank`` random directions, add damping, invert in closed form.

    With orthonormal directions :math:`\Omega`, :math:`Y = H\Omega` and :math:`W = \Omega^T Y` the Hessian is taken
    for :math:`Y W^{-1} Y^T`, so that by the Woodbury identity

    .. math:: q = \tfrac{1}{\rho}\bigl(v - Y (\rho W + Y^T Y)^{-1} Y^T v\bigr).

    Equals the damped inverse :math:`(H + \rho I)^{-1} v` where ``rank`` reaches the rank of ``H``; below that,
    directions that the sketch misses are divided by the damping alone. Unlike a Neumann series it has no step size
    that must fit the curvature. Meant for Hessians that are positive semidefinite: with negative curvature the result
    is still defined, and reported as :attr:`Status.NEGATIVE_CURVATURE`.

    Cost: ``rank`` Hessian-vector products. Memory: two copies of the lower's parameters a direction. The small
    system is solved in double precision.

    Args:
        rank: Random directions; at most the number of parameters is used.
        damping: The eigenvalue :math:`\rho` in all directions that the sketch misses.

    Reference: Hataya and Yamada (2023), arXiv:2302.09726, equation 6, with Gaussian directions in the place of columns.
    """

    rank: int = 10
    damping: float = 0.01

    def solve(self, hessian: Operator, v: Tree, aid: Aid = NO_AID) -> Solution:
        flat = flatten(v)
        if not flat.numel():
            return Solution(v)
        directions = _directions(flat, min(self.rank, flat.numel()), aid.seed)
        images = torch.stack([flatten(hessian(unflatten(column, v))) for column in directions.mT], dim=1)
        core = (directions.mT @ images).double()
        core = (core + core.mT) / 2
        gram = self.damping * core + (images.mT @ images).double()
        inner = torch.linalg.pinv(gram, hermitian=True) @ (images.mT @ flat).double()
        solution = (flat - images @ inner.to(flat.dtype)) / self.damping
        return Solution(unflatten(solution, v), _status(core, solution), {"iterations": float(directions.shape[1])})


def _directions(like: Tensor, rank: int, seed: int) -> Tensor:
    """Orthonormal columns that are spread uniformly; the same for the same seed on every device."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(like.numel(), rank, generator=generator, dtype=like.dtype).to(like.device)
    columns: Tensor = torch.linalg.qr(drawn).Q
    return columns


def _status(core: Tensor, solution: Tensor) -> Status:
    curvatures = torch.linalg.eigvalsh(core)
    finite, least, most = torch.stack(
        [torch.isfinite(solution).all().double(), curvatures.min(), curvatures.abs().max()]
    ).tolist()
    if not finite:
        return Status.NONFINITE
    return Status.NEGATIVE_CURVATURE if least < -1e-6 * most else Status.OK
