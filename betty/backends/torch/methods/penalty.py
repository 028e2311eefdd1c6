"""The value-function gap."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from betty.backends.torch.methods.base import Lower
from betty.backends.torch.methods.estimators import Answer, Estimator, Occasion
from betty.backends.torch.tree import Tree, axpy, norm, scale, subtract, zeros_like


@dataclass(frozen=True, kw_only=True)
class Penalty(Estimator):
    r"""Differentiate the gap between the lower's loss at a penalised solution and at its own.

    The bilevel program is taken for :math:`\min_{x, y} f(x, y) + \sigma (L(y, x) - \min_z L(z, x))`. With
    :math:`z = \theta`, where the lower stands, and :math:`y_\sigma = \arg\min_y L(y, x) + v^T y / \sigma`, found by
    gradient descent from :math:`\theta`, the response is

    .. math:: \sigma \bigl(\nabla_x L(y_\sigma, x) - \nabla_x L(\theta, x)\bigr)
              \to -(\partial g / \partial x)^T H^{-1} v \quad (\sigma \to \infty).

    ``v`` is the adjoint of the lower: the upper's loss enters by its gradient at :math:`\theta`, which differs from
    F2SA's by :math:`O(1/\sigma)` and lets the method take part in chains. Both points are evaluated on the same
    micro-batches. Inexact by :math:`O(1/\sigma)`, by what the descent leaves undone, and in single precision by
    rounding times :math:`\sigma`; the lower is taken to stand at a minimum.

    Cost: ``iterations + 2`` gradients of the lower, no second derivative of any kind; memory of first order.

    Args:
        iterations: Steps of gradient descent.
        alpha: Their length; below 2 / largest eigenvalue of the lower's Hessian.
        multiplier: :math:`\sigma` at the target's first step.
        growth: Added to it at every step.
        warm_start: Begin with the offset :math:`y_\sigma - \theta` of the target's previous step, rescaled to the
            present multiplier.

    Reference: F2SA, Kwon et al. (2023), arXiv:2301.10945, equation 3 and algorithm 1; BOME, Liu et al. (2022),
    arXiv:2209.08709, section 3.
    """

    iterations: int = 10
    alpha: float = 0.01
    multiplier: float = 100.0
    growth: float = 0.0
    warm_start: bool = False

    def answer(self, lower: Lower, v: Tree, occasion: Occasion) -> Answer:
        memory, name = occasion.memory, lower.name
        sigma = self.multiplier + self.growth * occasion.steps
        known: Tree | None = memory.get("offset") if self.warm_start else None
        offset = scale(1 / sigma, known) if known is not None else zeros_like(v)
        pull = {name: lower.parameters}
        start = lower.together(lower.gradients(pull, lower.parameters)[name])
        change: Tree = ()
        for _ in range(self.iterations):
            here = lower.together(lower.gradients(pull, axpy(1.0, offset, lower.parameters))[name])
            # A lower that has not converged moves on its own; that part is not an answer to v.
            change = axpy(1 / sigma, v, subtract(here, start))
            offset = axpy(-self.alpha, change, offset)
        ahead = lower.gradients(lower.reads, axpy(1.0, offset, lower.parameters))
        base = lower.gradients(lower.reads, lower.parameters)
        gains = {key: scale(sigma, subtract(ahead[key], base[key])) for key in lower.reads}
        if self.warm_start:
            memory["offset"] = scale(sigma, offset)
        return Answer(gains, stats={"multiplier": sigma, "residual": _relative(change, v, sigma)})


def _relative(change: Tree, v: Tree, sigma: float) -> Tensor | float:
    """The gradient that the descent has left, against the one that it began with."""
    return sigma * norm(change) / norm(v).clamp_min(1e-30) if v else 0.0
