"""Conjugate gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.methods.base import NO_AID, Aid, Inverse, Operator, Solution, Status
from betty.backends.torch.tree import Tree, axpy, divide, dot, subtract, zeros_like


@dataclass(frozen=True, kw_only=True)
class CG(Inverse):
    r"""Solve ``(H + damping I) q = v`` by conjugate gradients.

    Exact after as many iterations as ``H`` has distinct eigenvalues, in exact arithmetic; before that the error in
    the norm of ``H`` shrinks by :math:`(\sqrt\kappa - 1) / (\sqrt\kappa + 1)` an iteration. Right only where the
    damped Hessian is positive definite: at a direction of negative curvature the solve stops with what it has and
    :attr:`Status.NEGATIVE_CURVATURE`. Damping biases the result by ``O(damping)``.

    Cost: one Hessian-vector product an iteration, one more for a warm start, and four copies of the lower's
    parameters. Each iteration reads two numbers back to the host to decide whether to stop.

    Args:
        iterations: Most iterations.
        tolerance: Stop where the residual's norm is at most this times the norm of ``v``.
        damping: Added to every eigenvalue.
        precondition: Divide coordinates by the scales of the lower's optimiser (for Adam the root of the second
            moment); the solution is the same, the number of iterations another.
        warm_start: Start from the target's previous solution, where that is nearer than zero.

    Reference: Hestenes and Stiefel (1952); for hypergradients Pedregosa (2016), arXiv:1602.02355, and iMAML,
    Rajeswaran et al. (2019), arXiv:1909.04630, section 3; warm starts as in AmIGO, arXiv:2111.14580.
    """

    iterations: int = 20
    tolerance: float = 1e-6
    damping: float = 0.0
    precondition: bool = False
    warm_start: bool = False

    def solve(self, hessian: Operator, v: Tree, aid: Aid = NO_AID) -> Solution:
        scales = aid.diagonal() if self.precondition and aid.diagonal is not None else None

        def image_of(x: Tree) -> Tree:
            return axpy(self.damping, x, hessian(x)) if self.damping else hessian(x)

        q, residual = _start(image_of, v, aid.start if self.warm_start else None)
        direction = scaled = divide(residual, scales)
        product, squares = dot(residual, scaled), dot(residual, residual)
        whole, left = _floats(dot(v, v), squares)
        taken, status = 0, Status.ITERATIONS
        while True:
            if not math.isfinite(left):
                status = Status.NONFINITE
            elif left <= self.tolerance**2 * whole:
                status = Status.OK
            if status is not Status.ITERATIONS or taken == self.iterations:
                break
            image = image_of(direction)
            curvature = dot(direction, image)
            length = product / curvature
            residual_next = axpy(-length, image, residual)
            scaled = divide(residual_next, scales)
            product_next = dot(residual_next, scaled)
            bend, left_next = _floats(curvature, dot(residual_next, residual_next))
            if trouble := _trouble(bend, left_next):
                status = trouble
                break
            q = axpy(length, direction, q)
            direction = axpy(product_next / product, direction, scaled)
            residual, product, left, taken = residual_next, product_next, left_next, taken + 1
        relative = math.sqrt(left / whole) if whole > 0 and math.isfinite(left) else left
        return Solution(q, status, {"iterations": float(taken), "residual": relative})


def _start(image_of: Operator, v: Tree, start: Tree | None) -> tuple[Tree, Tree]:
    """A first solution and its residual: the given one, where it is better than zero."""
    if start is not None:
        residual = subtract(v, image_of(start))
        left, whole = _floats(dot(residual, residual), dot(v, v))
        if left < whole:
            return start, residual
    return zeros_like(v), v


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
