"""The truncated Neumann series."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from betty.backends.torch.methods.base import NO_AID, Aid, Inverse, Operator, Solution
from betty.backends.torch.tree import Tree, axpy, norm, scale, subtract


@dataclass(frozen=True, kw_only=True)
class Neumann(Inverse):
    """Approximate ``H^-1 v`` by ``alpha * sum_{k=0..iterations} (I - alpha H)^k v``.

    Tends to ``H^-1 v`` if every eigenvalue of ``H`` lies in ``(0, 2 / alpha)``, with an error that shrinks by
    ``max |1 - alpha * eigenvalue|`` a term, and does not converge otherwise. The series is gradient descent on
    ``q^T H q / 2 - v^T q`` from zero; with ``warm_start`` it descends from the target's previous solution, so that
    few iterations a step are enough where the upper moves slowly.

    Cost: ``iterations`` Hessian-vector products, one more for a warm start; memory independent of ``iterations``; no
    host synchronisation. The residual among the statistics is that before the last term.

    Args:
        alpha: Step of the series; start from the lower's learning rate.
        iterations: Corrections after the leading term; 0 leaves ``alpha * v``.
        warm_start: Start from the target's previous solution.

    Reference: Lorraine, Vicol and Duvenaud (2020), arXiv:1911.02590, algorithm 3; warm starts as in SOBA,
    Dagreou et al. (2022), arXiv:2201.13409.
    """

    iterations: int = 10
    alpha: float = 0.01
    warm_start: bool = False

    def solve(self, hessian: Operator, v: Tree, aid: Aid = NO_AID) -> Solution:
        start = aid.start if self.warm_start else None
        term = total = v if start is None else subtract(v, hessian(start))
        for _ in range(self.iterations):
            term = axpy(-self.alpha, hessian(term), term)  # (I - alpha H) term
            total = axpy(1.0, term, total)
        found = scale(self.alpha, total) if start is None else axpy(self.alpha, total, start)
        length = norm(v).clamp_min(torch.finfo(torch.float32).tiny) if v else 1.0
        left = norm(term) / length if v else 0.0
        return Solution(found, stats={"iterations": float(self.iterations), "residual": left})
