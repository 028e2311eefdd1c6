"""Inverses of the whole curvature, by products with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from betty.backends.torch.errors import RunError
from betty.backends.torch.influence.arnoldi import leading_pairs
from betty.backends.torch.influence.curvature import Curvature
from betty.backends.torch.influence.inverses import Damping, Preconditioner
from betty.backends.torch.influence.lissa import series
from betty.backends.torch.influence.rows import conjugate_gradients
from betty.backends.torch.influence.task import Task
from betty.backends.torch.influence.units import Unit

log = logging.getLogger("betty")

Solve = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Solving(Preconditioner):
    """``(H + damping)^-1`` with the Gauss-Newton matrix or Hessian of the whole training loss.

    Args:
        curvature: Products with ``H``.
        added: The damping, weight decay included, absolute.
        how: Solves for rows ``[m, size]``; made at the first use, as it may go through the data many times.
    """

    curvature: Curvature
    added: float
    how: Callable[[Curvature, float], Solve]
    _solve: Solve | None = None

    def solve(self, rows: Tensor) -> Tensor:
        if self._solve is None:
            self._solve = self.how(self.curvature, self.added)
        return self._solve(rows)

    @classmethod
    def made(  # noqa: PLR0913 - what a solve is made of
        cls,
        name: str,
        options: Mapping[str, Any],
        *,
        model: nn.Module,
        task: Task,
        batches: Sequence[Any],
        units: Sequence[Unit],
        damping: Damping,
        seed: int,
    ) -> Solving:
        """The solve of a method of ``betty.ir.valuations`` with its options."""
        curvature = Curvature(model, task, batches, units, options["curvature"])
        if name == "dense" and curvature.size > options["limit"]:
            raise RunError(
                f"method 'dense' solves with a matrix of {curvature.size:,} rows: expected at most "
                f"{options['limit']:,} (limit); take cg, ekfac or logra, or choose layers"
            )
        mean = curvature.trace(seed) / max(1, curvature.size) if damping.relative and damping.value else 1.0
        return cls(curvature, damping.value * mean + damping.decay, MADE[name](options, seed))


def _dense(options: Mapping[str, Any], seed: int) -> Callable[[Curvature, float], Solve]:
    del options, seed

    def make(curvature: Curvature, added: float) -> Solve:
        values, vectors = torch.linalg.eigh(curvature.dense().double())
        damped = values + added
        # Of a singular matrix the solution of least norm. A Hessian may be indefinite: its signs are kept.
        singular = damped.abs() <= 1e-12 * damped.abs().max()
        inverse = torch.where(singular, 0.0, damped.reciprocal())

        def solve(rows: Tensor) -> Tensor:
            found: Tensor = (rows.double() @ vectors.to(rows.device)) * inverse.to(rows.device)
            back: Tensor = found @ vectors.T.to(rows.device)
            return back.to(rows)

        return solve

    return make


def _cg(options: Mapping[str, Any], seed: int) -> Callable[[Curvature, float], Solve]:
    del seed

    def make(curvature: Curvature, added: float) -> Solve:
        def solve(rows: Tensor) -> Tensor:
            found = conjugate_gradients(
                lambda v: curvature.product(v) + added * v, rows, options["iterations"], options["tolerance"]
            )
            if found.bent:
                log.warning(
                    "cg: %d of %d solves met a direction of negative curvature and keep their best answer: take "
                    "curvature: gauss_newton, or more damping",
                    found.bent,
                    len(rows),
                )
            return found.value

        return solve

    return make


def _lissa(options: Mapping[str, Any], seed: int) -> Callable[[Curvature, float], Solve]:
    def make(curvature: Curvature, added: float) -> Solve:
        return lambda rows: series(
            curvature,
            rows,
            damping=added,
            iterations=options["iterations"],
            repeat=options["repeat"],
            scale=options["scale"],
            seed=seed,
        )

    return make


def _arnoldi(options: Mapping[str, Any], seed: int) -> Callable[[Curvature, float], Solve]:
    def make(curvature: Curvature, added: float) -> Solve:
        values, vectors = leading_pairs(curvature, options["iterations"], options["rank"], seed)
        damped = values + added
        least = 1e-12 * damped.abs().max()
        inverse = torch.where(damped.abs() > least, damped.reciprocal(), torch.zeros_like(damped))
        return lambda rows: ((rows @ vectors.T.to(rows)) * inverse.to(rows)) @ vectors.to(rows)

    return make


MADE: dict[str, Callable[[Mapping[str, Any], int], Callable[[Curvature, float], Solve]]] = {
    "dense": _dense,
    "cg": _cg,
    "lissa": _lissa,
    "arnoldi": _arnoldi,
}
