"""The two halves of an implicit method: a product evaluates a linearised lower problem, an inverse solves with it.

Neither half knows the other. A product gives a :class:`Linearization` of the lower's stationarity condition
``g(theta, x) = grad_theta L(theta, x)``; an inverse sees nothing of it but the map ``v -> H v``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from betty.backends.torch.objective import Objective, Sample
from betty.backends.torch.tree import Tree

Operator = Callable[[Tree], Tree]


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


class Inverse(ABC):
    """An approximation of ``q = H^-1 v``, linear in ``v`` up to its stopping rule.

    Args of ``solve``:
        hessian: ``v -> H v`` for the lower's Hessian, symmetric.
        v: The adjoint, shaped like the lower's trainable parameters.
    """

    @abstractmethod
    def solve(self, hessian: Operator, v: Tree) -> Solution: ...


@dataclass(frozen=True, eq=False)
class Lower:
    """Where a lower problem stands: its loss, the micro-batches of its last update, and the live parameters.

    Args:
        name: The lower problem.
        objective: Its loss; averaged over ``samples``.
        samples: Micro-batches with their random states; at least one.
        parameters: The trainable parameters of the lower itself.
        reads: The trainable parameters of each problem that the response passes to, by name.
    """

    name: str
    objective: Objective
    samples: Sequence[Sample]
    parameters: Tree
    reads: Mapping[str, Tree]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by the plain kernel: the fused ones have a gradient that cannot be differentiated again."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


class Linearization(ABC):
    """The derivatives of ``g(theta, x)`` at one point, as maps."""

    @abstractmethod
    def hessian(self, v: Tree) -> Tree:
        """``H v`` with ``H = dg/dtheta``; shaped like the lower's parameters."""

    @abstractmethod
    def pull(self, q: Tree) -> dict[str, Tree]:
        """``(dg/dx)^T q`` for every problem ``x`` that the response passes to, shaped like its parameters."""


class Product(ABC):
    """A way to evaluate the linearised lower problem."""

    @abstractmethod
    def linearize(self, lower: Lower) -> Linearization:
        """Linearise at the live parameters; the evaluation is pure (see ``Objective.pure``)."""
