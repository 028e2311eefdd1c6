"""The two halves of an implicit method: a product evaluates a linearised lower problem, an inverse solves with it.

Neither half knows the other. A product gives a :class:`Linearization` of the lower's stationarity condition
``g(theta, x) = grad_theta L(theta, x)``; an inverse sees nothing of it but the map ``v -> H v``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from betty.backends.torch.objective import Objective, Sample
from betty.backends.torch.tree import Scalar, Tree, add, detach, scale

Operator = Callable[[Tree], Tree]


Last = Callable[[Mapping[str, Tree], Scalar], AbstractContextManager[None]]


def nothing(ahead: Mapping[str, Tree], factor: Scalar) -> AbstractContextManager[None]:
    del ahead, factor
    return nullcontext()


class Status(Enum):
    """How a solve ended. Numerical trouble is a value: the best answer so far is returned with it."""

    OK = "ok"
    ITERATIONS = "ran out of iterations"
    NEGATIVE_CURVATURE = "met a direction of negative curvature"
    NONFINITE = "became non-finite"


@dataclass(frozen=True)
class Solution:
    """An approximation of ``H^-1 v``, how the solve ended, and statistics for the metrics."""

    value: Tree
    status: Status = Status.OK
    stats: Mapping[str, float | Tensor] = field(default_factory=dict)


def same(v: Tree) -> Tree:
    return v


@dataclass(frozen=True, eq=False)
class Aid:
    """What may help a solve beside the Hessian itself.

    Args:
        start: The solution of the target's previous step; ``None`` at the first.
        adapt: ``v -> (du/dg)^T v`` for the update ``u(g)`` that the lower's optimiser has made last, in units of its
            learning rate.
        diagonal: How the lower's optimiser scales each coordinate, positive; ``None`` where it treats all alike.
        seed: Of random directions; another at every step of the target.
    """

    start: Tree | None = None
    adapt: Operator = same
    diagonal: Callable[[], Tree] | None = None
    seed: int = 0


NO_AID = Aid()


class Inverse(ABC):
    """An approximation of ``q = H^-1 v``, linear in ``v`` up to its stopping rule.

    Args of ``solve``:
        hessian: ``v -> H v`` for the lower's Hessian, symmetric.
        v: The adjoint, shaped like the lower's trainable parameters.
        aid: A start and the optimiser's scales, for inverses that use them.
    """

    warm_start: bool = False
    """Whether ``aid.start`` is used."""

    @abstractmethod
    def solve(self, hessian: Operator, v: Tree, aid: Aid = NO_AID) -> Solution: ...


@dataclass(frozen=True, eq=False)
class Lower:
    """Where a lower problem stands: its loss, the micro-batches of its last update, and the live parameters.

    Args:
        name: The lower problem.
        objective: Its loss; averaged over ``samples``.
        samples: Micro-batches with their random states; at least one.
        parameters: The trainable parameters of the lower itself.
        reads: The trainable parameters of each problem that the response passes to, by name.
        decay: Weight decay that the lower's optimiser adds to the gradient of each parameter; empty for none. The
            lower then descends ``L + decay ||theta||^2 / 2``, and it is this loss's solution that responds.
        answers: For each parameter, whether the response goes through it; empty where it goes through all. The
            others count as constants of the loss.
        together: The mean of a tree over all processes. The loss is the mean of theirs: what a method makes of its
            derivatives it makes of their mean, other than what it gives in the end, of which the mean is taken later.
        last: Entered around the last backward pass of a response by differences, with the gradients of the first one
            and the factor of their difference, so that what comes of it can be sent to other processes meanwhile.
    """

    name: str
    objective: Objective
    samples: Sequence[Sample]
    parameters: Tree
    reads: Mapping[str, Tree]
    decay: Sequence[float] = ()
    answers: Sequence[bool] = ()
    together: Operator = same
    last: Last = nothing

    def through(self, tree: Tree) -> Tree:
        """``tree`` with zeros for the parameters that the response does not go through."""
        if not self.answers:
            return tree
        return tuple(leaf if taken else torch.zeros_like(leaf) for leaf, taken in zip(tree, self.answers, strict=True))

    def decayed(self, point: Tree, tree: Tree) -> Tree:
        """``tree + decay * point``: what weight decay adds to a gradient at ``point``, or to ``H`` times ``point``."""
        if not any(self.decay):
            return tree
        return tuple(part + rate * at for part, rate, at in zip(tree, self.decay, point, strict=True))

    def gradients(self, by: Mapping[str, Tree], at: Tree) -> dict[str, Tree]:
        """First-order gradients by each of ``by``, with the lower's own parameters at ``at``; weight decay included."""
        # Activations on a way to the lower's parameters alone need not be kept where nothing is differentiated by them.
        stand_in = tuple(leaf.detach().requires_grad_() for leaf in at) if self.name in by else detach(at)
        inputs = {name: stand_in if name == self.name else tree for name, tree in by.items()}
        flat = tuple(leaf for tree in inputs.values() for leaf in tree)
        found = self.averaged(inputs, lambda sample: self.objective.gradient(sample, {self.name: stand_in}, flat))
        if self.name in found:
            found[self.name] = self.decayed(at, found[self.name])
        return found

    def averaged(self, by: Mapping[str, Tree], one: Callable[[Sample], Tree]) -> dict[str, Tree]:
        """The mean of ``one`` over the micro-batches, its leaves dealt out as the trees of ``by``."""
        total: Tree = ()
        for sample in self.samples:
            found = one(sample)
            total = add(total, found) if total else found
        if len(self.samples) > 1:
            total = scale(1 / len(self.samples), total)
        parts = iter(total)
        return {name: tuple(next(parts) for _ in tree) for name, tree in by.items()}


class Linearization(ABC):
    """The derivatives of ``g(theta, x)`` at one point, as maps."""

    @abstractmethod
    def hessian(self, v: Tree) -> Tree:
        """``H v`` with ``H = dg/dtheta``, weight decay included; shaped like the lower's parameters."""

    @abstractmethod
    def pull(self, q: Tree) -> dict[str, Tree]:
        """``(dg/dx)^T q`` for every problem ``x`` that the response passes to, shaped like its parameters."""


class Product(ABC):
    """A way to evaluate the linearised lower problem."""

    @abstractmethod
    def linearize(self, lower: Lower) -> Linearization:
        """Linearise at the live parameters; the evaluation is pure (see ``Objective.pure``)."""
