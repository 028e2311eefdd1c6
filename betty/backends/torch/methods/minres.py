"""Minimal residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from betty.backends.torch.methods.base import NO_AID, Aid, Inverse, Operator, Solution, Status
from betty.backends.torch.tree import Tree, axpy, dot, scale, subtract, zeros_like


@dataclass(frozen=True, kw_only=True)
class MinRes(Inverse):
    """Solve ``(H + damping I) q = v`` by minimal residuals, for symmetric ``H`` of any signature.

    Among all vectors of the Krylov space the one of smallest residual. Exact after as many iterations as ``H`` has
    distinct eigenvalues, in exact arithmetic. Where :class:`CG` must stop at the first direction of negative
    curvature this goes on; note that at such a point the lower is at a saddle, and the solution is the derivative of
    a stationary point that is no minimum.

    Cost: one Hessian-vector product an iteration, one more for a warm start, and seven copies of the lower's
    parameters. Each iteration reads two numbers back to the host.

    Args:
        iterations: Most iterations.
        tolerance: Stop where the residual's norm is at most this times the norm of ``v``.
        damping: Added to every eigenvalue.
        warm_start: Start from the target's previous solution, where that is nearer than zero.

    Reference: Paige and Saunders (1975), "Solution of sparse indefinite systems of linear equations", section 6.
    """

    iterations: int = 20
    tolerance: float = 1e-6
    damping: float = 0.0
    warm_start: bool = False

    def solve(self, hessian: Operator, v: Tree, aid: Aid = NO_AID) -> Solution:
        def image_of(x: Tree) -> Tree:
            return axpy(self.damping, x, hessian(x)) if self.damping else hessian(x)

        whole = math.sqrt(float(dot(v, v)))
        q, residual = zeros_like(v), v
        if self.warm_start and aid.start is not None:
            left = subtract(v, image_of(aid.start))
            if float(dot(left, left)) < whole**2:
                q, residual = aid.start, left
        return self._iterate(image_of, q, residual, whole)

    def _iterate(self, image_of: Operator, q: Tree, residual: Tree, whole: float) -> Solution:
        """Lanczos steps; the tridiagonal matrix is triangularised by one plane rotation a step."""
        beta = _norm(residual)
        lanczos = _Lanczos(image_of, scale(1.0 / beta, residual) if beta > 0 else residual)
        rotations = ((1.0, 0.0), (1.0, 0.0))  # cosine and sine, of the last step but one and of the last
        before = older = zeros_like(residual)  # the last two search directions
        left, taken, status = beta, 0, Status.ITERATIONS
        while abs(left) > self.tolerance * whole and taken < self.iterations and lanczos.going:
            off, diagonal, below = lanczos.step()
            if not (math.isfinite(diagonal) and math.isfinite(below)):
                status = Status.NONFINITE
                break
            (cosine_old, sine_old), (cosine, sine) = rotations
            above, turned = sine_old * off, cosine_old * off
            beside, pivot = cosine * turned + sine * diagonal, cosine * diagonal - sine * turned
            length = math.hypot(pivot, below)
            if length <= lanczos.exhausted * lanczos.largest:  # singular on what is left of the space
                break
            rotations = (cosine, sine), (pivot / length, below / length)
            direction = scale(1 / length, axpy(-above, older, axpy(-beside, before, lanczos.used)))
            q = axpy(rotations[1][0] * left, direction, q)
            left, older, before, taken = -rotations[1][1] * left, before, direction, taken + 1
        if status is Status.ITERATIONS and abs(left) <= self.tolerance * whole:
            status = Status.OK
        relative = abs(left) / whole if whole > 0 else abs(left)
        return Solution(q, status, {"iterations": float(taken), "residual": relative})


def _exhausted(like: Tree) -> float:
    """Lengths below this part of the largest entry count as zero: well above rounding, which would be divided by it."""
    return float(torch.finfo(like[0].dtype).eps ** 0.75) if like else 0.0


class _Lanczos:
    """An orthonormal basis of the Krylov space, in which the operator is tridiagonal."""

    def __init__(self, image_of: Operator, first: Tree) -> None:
        self.image_of, self._next = image_of, first
        self.used, self._previous = first, zeros_like(first)
        self._off, self.largest, self.going = 0.0, 0.0, True
        self.exhausted = _exhausted(first)

    def step(self) -> tuple[float, float, float]:
        """The next column of the tridiagonal matrix: above, on and below the diagonal."""
        off, self.used = self._off, self._next
        image = axpy(-off, self._previous, self.image_of(self.used))
        diagonal = float(dot(self.used, image))
        image = axpy(-diagonal, self.used, image)
        below = _norm(image)
        self.largest = max(self.largest, abs(diagonal), below)
        self.going = below > self.exhausted * self.largest
        if self.going:
            self._next = scale(1.0 / below, image)
        self._previous, self._off = self.used, below
        return off, diagonal, below


def _norm(tree: Tree) -> float:
    return math.sqrt(float(dot(tree, tree)))
