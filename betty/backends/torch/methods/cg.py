"""Conjugate gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.methods.base import Inverse, Operator, Solution, Status
from betty.backends.torch.tree import Tree, axpy, dot, zeros_like


@dataclass(frozen=True, kw_only=True)
class CG(Inverse):
    r"""Solve ``(H + damping I) q = v`` by conjugate gradients, from ``q = 0``.

    Exact after as many iterations as ``H`` has distinct eigenvalues, in exact arithmetic; before that the error in
    the norm of ``H`` shrinks by :math:`(\sqrt\kappa - 1) / (\sqrt\kappa + 1)` an iteration. Right only where the
    damped Hessian is positive definite: at a direction of negative curvature the solve stops with what it has and
    :attr:`Status.NEGATIVE_CURVATURE`. Damping biases the result by ``O(damping)``.

    Cost: one Hessian-vector product an iteration and four copies of the lower's parameters. Each iteration reads
    two numbers back to the host to decide whether to stop.

    Args:
        iterations: Most iterations.
        tolerance: Stop where the residual's norm is at most this times the norm of ``v``.
        damping: Added to every eigenvalue.

    Reference: Hestenes and Stiefel (1952); for hypergradients Pedregosa (2016), arXiv:1602.02355, and iMAML,
    Rajeswaran et al. (2019), arXiv:1909.04630, section 3.
    """

    iterations: int = 20
    tolerance: float = 1e-6
    damping: float = 0.0

    def solve(self, hessian: Operator, v: Tree) -> Solution:
        q, residual, direction = zeros_like(v), v, v
        squared = dot(residual, residual)
        start, left = _floats(squared)[0], 0.0
        left, taken, status = start, 0, Status.ITERATIONS
        while True:
            if not math.isfinite(left):
                status = Status.NONFINITE
            elif left <= self.tolerance**2 * start:
                status = Status.OK
            if status is not Status.ITERATIONS or taken == self.iterations:
                break
            image = axpy(self.damping, direction, hessian(direction)) if self.damping else hessian(direction)
            curvature = dot(direction, image)
            length = squared / curvature
            residual_next = axpy(-length, image, residual)
            squared_next = dot(residual_next, residual_next)
            bend, left_next = _floats(curvature, squared_next)
            if trouble := _trouble(bend, left_next):
                status = trouble
                break
            q = axpy(length, direction, q)
            direction = axpy(squared_next / squared, direction, residual_next)
            residual, squared, left, taken = residual_next, squared_next, left_next, taken + 1
        relative = math.sqrt(left / start) if start > 0 and math.isfinite(left) else left
        return Solution(q, status, {"iterations": float(taken), "residual": relative})


def _trouble(bend: float, left: float) -> Status | None:
    """Why the step that has just been computed must not be taken; ``None`` where it may."""
    if not math.isfinite(bend):
        return Status.NONFINITE
    if bend <= 0:  # the residual is not looked at: no curvature makes the step infinitely long
        return Status.NEGATIVE_CURVATURE
    return None if math.isfinite(left) else Status.NONFINITE


def _floats(*values: Tensor) -> list[float]:
    """Several 0-dimensional tensors on the host in one transfer."""
    found: list[float] = torch.stack(values).tolist()
    return found
