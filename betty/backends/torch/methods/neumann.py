"""The truncated Neumann series."""

from __future__ import annotations

from dataclasses import dataclass

from betty.backends.torch.methods.base import Inverse, Operator, Solution
from betty.backends.torch.tree import Tree, axpy, scale


@dataclass(frozen=True, kw_only=True)
class Neumann(Inverse):
    """Approximate ``H^-1 v`` by ``alpha * sum_{k=0..iterations} (I - alpha H)^k v``.

    Tends to ``H^-1 v`` if every eigenvalue of ``H`` lies in ``(0, 2 / alpha)``, with an error that shrinks by
    ``max |1 - alpha * eigenvalue|`` a term, and does not converge otherwise.

    Cost: ``iterations`` Hessian-vector products; memory independent of ``iterations``; no host synchronisation.

    Args:
        alpha: Step of the series; start from the lower's learning rate.
        iterations: Corrections after the leading term; 0 leaves ``alpha * v``.

    Reference: Lorraine, Vicol and Duvenaud (2020), arXiv:1911.02590, algorithm 3.
    """

    iterations: int = 10
    alpha: float = 0.01

    def solve(self, hessian: Operator, v: Tree) -> Solution:
        term = total = v
        for _ in range(self.iterations):
            term = axpy(-self.alpha, hessian(term), term)  # (I - alpha H) term
            total = axpy(1.0, term, total)
        return Solution(scale(self.alpha, total), stats={"iterations": float(self.iterations)})
