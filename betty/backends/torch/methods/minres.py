"""Minimal residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
        beta = left = math.sqrt(float(dot(residual, residual)))
        last = previous = zeros_like(residual)
        basis = scale(1.0 / beta, residual) if beta > 0 else residual
        before = older = zeros_like(residual)  # the last two search directions
        cosine, sine, old_cosine, old_sine = 1.0, 0.0, 1.0, 0.0
        taken, status, first, biggest = 0, Status.ITERATIONS, True, 0.0
        while left > self.tolerance * whole and taken < self.iterations and status is Status.ITERATIONS:
            image = image_of(basis)
            if not first:
                image = axpy(-beta, previous, image)
            alpha = float(dot(basis, image))
            image = axpy(-alpha, basis, image)
            beta_next = math.sqrt(max(float(dot(image, image)), 0.0))
            if not (math.isfinite(alpha) and math.isfinite(beta_next)):
                status = Status.NONFINITE
                break
            # The new column of the tridiagonal matrix, turned by the last two rotations and then by its own.
            epsilon, turned = old_sine * (0.0 if first else beta), old_cosine * (0.0 if first else beta)
            delta, gamma_bar = cosine * turned + sine * alpha, cosine * alpha - sine * turned
            gamma = math.hypot(gamma_bar, beta_next)
            biggest = max(biggest, abs(alpha), beta_next)
            if gamma <= 1e-14 * biggest:  # the system is singular on what is left of the space
                break
            last = scale(1.0 / gamma, axpy(-epsilon, older, axpy(-delta, before, basis)))
            old_cosine, old_sine, cosine, sine = cosine, sine, gamma_bar / gamma, beta_next / gamma
            q = axpy(cosine * left, last, q) if taken == 0 else axpy(cosine * signed, last, q)
            signed = -sine * (left if taken == 0 else signed)
            left, older, before = abs(signed), before, last
            previous, taken, first = basis, taken + 1, False
            if beta_next <= 1e-14 * biggest:  # the Krylov space is exhausted
                break
            beta, basis = beta_next, scale(1.0 / beta_next, image)
        if status is Status.ITERATIONS and left <= self.tolerance * whole:
            status = Status.OK
        relative = left / whole if whole > 0 else left
        return Solution(q, status, {"iterations": float(taken), "residual": relative})
