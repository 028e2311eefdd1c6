"""The optimiser's own adaptation in the place of the inverse Hessian."""

from __future__ import annotations

from dataclasses import dataclass

from betty.backends.torch.methods.base import NO_AID, Aid, Inverse, Operator, Solution
from betty.backends.torch.tree import Tree


@dataclass(frozen=True, kw_only=True)
class Sama(Inverse):
    r"""Return :math:`(\partial u / \partial g)^T v`, ``u(g)`` being the update of the lower's optimiser.

    An adaptive optimiser solves for another fixed point than gradient descent does: the one of :math:`u = 0`. Its
    adaptation stands for the inverse Hessian, a coordinate at a time, in units of the learning rate; for plain SGD
    this is :class:`Identity`. Adam and AdamW have a closed form, with both bias corrections; for other optimisers
    their update is differentiated with respect to the gradient. Inexact: curvature between coordinates is ignored,
    and so is what earlier gradients have left in the optimiser's state.

    Cost: nothing but elementwise work. Memory: the last gradient, and for optimisers without a closed form the
    parameters and the state before the last update.

    Reference: SAMA, Choe et al. (2023), arXiv:2310.05674, section 3.2.
    """

    def solve(self, hessian: Operator, v: Tree, aid: Aid = NO_AID) -> Solution:
        del hessian
        return Solution(aid.adapt(v))
