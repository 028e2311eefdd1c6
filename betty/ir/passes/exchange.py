"""Exchange: how often all processes meet in each instruction, and what they give to one another.

Counted are operations of all processes (collectives) in one call of an instruction, and the bytes that each of them
gives to these; how often a byte then travels is the affair of the library that runs them. At most: a solve that has
converged stops early, and an update of which nothing is looked back on needs no second round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, isqrt

from betty.ir.graph import SINGLE, Graph, Problem
from betty.ir.methods import Method
from betty.ir.passes.cost import products
from betty.ir.plan import Exchange
from betty.ir.records import Facts
from betty.ir.sharded import FSDP

NONE = Facts()

BUCKET = 4 * 2**20
"""Bytes from which on a part of a gradient is sent to other processes by itself."""


@dataclass(frozen=True)
class Exchanges:
    """What the processes of one graph exchange; ``None`` for one process, and where PyTorch's FSDP decides it."""

    graph: Graph

    @property
    def _together(self) -> bool:
        return self.graph.settings.strategy not in (SINGLE, FSDP)

    def update(self, name: str, tape: int, replay: int, columns: int) -> Exchange | None:
        """Of an update: its gradient, which parameters were used, and what is carried along.

        Where optimiser states are shared, every process then gives the parameters that it has updated to the others.
        """
        if not self._together:
            return None
        problem = self.graph.problem(name)
        facts = problem.facts or NONE
        calls, size = max(1, -(-facts.parameter_bytes // BUCKET)), facts.parameter_bytes
        if columns:
            calls, size = calls + 1, size + columns * facts.parameter_bytes
        if self.graph.settings.strategy == "zero" and not (tape or replay or columns):
            calls, size = calls + 1, size + facts.parameter_bytes
        return Exchange(calls=calls, bytes=size)

    def local(self, method: Method) -> bool:
        """Whether each process answers its own adjoint."""
        settings = self.graph.settings
        return self._together and settings.local_adjoints and method.solver.name in ("identity", "sama")

    def respond(self, name: str, method: Method) -> Exchange | None:
        """Of a response: the adjoint, and whatever the method takes the mean of on its way."""
        if not self._together:
            return None
        problem = self.graph.problem(name)
        facts = problem.facts or NONE
        calls = 0 if self.local(method) else 1
        size = calls * facts.parameter_bytes
        more, bytes_more = _found(problem, facts, method)
        if method.solver.name == "sama" and self.graph.settings.strategy == "zero":
            more, bytes_more = more + 1, bytes_more + facts.parameter_bytes
        return Exchange(calls=calls + more, bytes=size + bytes_more)


def _found(problem: Problem, facts: Facts, method: Method) -> tuple[int, int]:
    if method.implicit:
        several = products(method, facts.parameters)
        return several, several * facts.parameter_bytes
    counted = _UNPAIRED.get(method.solver.name)
    calls = counted(method) if counted else 0
    # What passes from one update to the one before it: the parameters' cotangents and those of the optimiser's state.
    size = facts.parameter_bytes + (facts.state_bytes if method.unrolled else 0)
    return calls, calls * size


def _unrolled(method: Method) -> int:
    steps = method.steps or 1
    sweeps = steps - 1
    if not method.solver["remat"]:
        return sweeps
    block = max(1, isqrt(steps))
    return sweeps + block * ceil(steps / block)


_UNPAIRED: dict[str, Callable[[Method], int]] = {
    "unrolled": _unrolled,
    "penalty": lambda method: int(method.solver["iterations"] or 1) + 1,
    "evolution_strategies": lambda method: 2 * int(method.solver["samples"] or 1) * (method.steps or 1),
}
