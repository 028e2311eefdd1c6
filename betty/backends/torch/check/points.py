"""From a window of training to the point at which flags are looked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.check.candidates import responses
from betty.backends.torch.check.flags import Point
from betty.backends.torch.check.reference import Reference, looks_back
from betty.backends.torch.check.replica import replica
from betty.backends.torch.check.windows import Window, hand
from betty.backends.torch.executor import Executor
from betty.backends.torch.methods import Linearization, Lower, product
from betty.backends.torch.objective import Sample
from betty.backends.torch.program import Program
from betty.backends.torch.respond import standing
from betty.backends.torch.tree import Tree, flatten
from betty.ir.diagnostics import BettyError
from betty.ir.graph import Edge
from betty.ir.methods import PRODUCTS, complete


@dataclass(frozen=True, eq=False)
class Finder:
    """Makes the point of one edge at the end of a window.

    Args:
        edge: The edge.
        window: Ends at the point.
        at: The program there.
        solution: The reference that is about the lower's solution; ``None`` where none could be computed.
    """

    edge: Edge
    window: Window
    at: Program
    solution: Reference | None

    def point(self, dtype: torch.dtype | None) -> Point:
        """The point, evaluated in ``dtype`` (in the program's own precision without)."""
        assert self.edge.method is not None
        program = replica(self.at, dtype)
        lower = program[self.edge.lower]
        plan_reads = self._reads(program)
        stands = standing(lower, tuple(lower.kept), plan_reads)
        return Point(
            upper=self.edge.upper,
            lower=self.edge.lower,
            iteration=self.window.iteration,
            method=self.edge.method,
            standing=stands,
            exact=_exact(stands),
            adjoint=self._adjoint(program),
            here=self.solution.gradient if self.solution is not None else None,
            moved=self._moved if self.solution is not None else None,
        )

    def _reads(self, program: Program) -> dict[str, Tree]:
        """What the lower's response passes to."""
        lower = program[self.edge.lower]
        if self.solution is None:
            return {name: program.parameters(name) for name in lower.objective.modules if name != lower.name}
        items = responses(self.solution.plan, self.window.target, self.edge)
        return {name: program.parameters(name) for item in items for name, _ in item.into}

    def _adjoint(self, program: Program) -> Tree:
        """The derivative of the target's loss by the lower's parameters; a drawn direction where that is zero."""
        hand(program, self.window.last)
        target, parameters = program[self.window.target], program.parameters(self.edge.lower)
        batch = target.stream.peek() if target.stream is not None else None
        found = target.objective.gradient(Sample(batch, self.window.last.random), {}, parameters)
        if any(bool(leaf.any()) for leaf in found):
            return found
        generator = torch.Generator().manual_seed(0)
        drawn = (torch.randn(leaf.shape, generator=generator, dtype=torch.float64) for leaf in parameters)
        return tuple(one.to(leaf) for one, leaf in zip(drawn, parameters, strict=True))

    def _moved(self, by: Tree) -> Tensor:
        """The reference hypergradient with the lower's parameters moved; the program itself stays."""
        assert self.solution is not None
        if looks_back(self.solution.plan, self.window.target):
            raise BettyError("another edge's method looks back on updates that began elsewhere")
        program = replica(self.solution.program, self.solution.dtype)
        with torch.no_grad():
            for parameter, change in zip(program.parameters(self.edge.lower), by, strict=True):
                parameter.add_(change)
        outcome = self.window.hypergradient(program, Executor(self.solution.plan, program))
        return flatten(outcome.gradient).detach().double()


def _exact(stands: Lower) -> Linearization | None:
    """The point's derivatives by the first exact product that runs."""
    for name, declared in PRODUCTS.items():
        if not declared.second_order:
            continue
        try:
            found = product(complete(name, declared, {})).linearize(stands)
            found.hessian(tuple(leaf.detach() for leaf in stands.parameters))
        except Exception:  # whatever torch, or a user's loss, makes of a second derivative: the next one may run
            continue
        return found
    return None
