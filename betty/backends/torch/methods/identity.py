"""``H^-1`` taken for the identity."""

from __future__ import annotations

from dataclasses import dataclass

from betty.backends.torch.methods.base import NO_AID, Aid, Inverse, Operator, Solution
from betty.backends.torch.tree import Tree


@dataclass(frozen=True, kw_only=True)
class Identity(Inverse):
    """Return ``v`` itself: the lower's curvature is ignored.

    The result points the right way where the Hessian is close to a multiple of the identity, and is off by that
    multiple. Cost: nothing.

    Reference: T1-T2, Luketina et al. (2016), arXiv:1511.06727; with finite differences DARTS, Liu et al. (2019),
    arXiv:1806.09055, equation 8.
    """

    def solve(self, hessian: Operator, v: Tree, aid: Aid = NO_AID) -> Solution:
        return Solution(v)
