"""Cost: what each instruction is expected to compute and to hold, from the facts of a trace.

Work is counted in passes over a problem's loss. With forward pass F and backward pass B of the lower's loss:

- linearising (the gradient with its graph) takes F + B,
- a product by ``reverse`` through that graph about 2 B, the graph being twice as long as the loss's own,
- a product by ``finite_difference`` two gradients, 2 (F + B), and no graph.
"""

from __future__ import annotations

from dataclasses import dataclass

from betty.ir.graph import Graph
from betty.ir.methods import Method
from betty.ir.plan import Estimate
from betty.ir.records import Facts

COPIES = {"cg": 4, "neumann": 2, "identity": 0}
"""Copies of the lower's parameters that an inverse keeps."""


@dataclass(frozen=True)
class Costs:
    """Estimates for the instructions of one graph; ``None`` where the problem was not traced."""

    graph: Graph

    def differentiate(self, name: str, tape: int = 0) -> Estimate | None:
        """One evaluation and its backward pass; with a tape, the graphs of ``tape`` updates are held as well."""
        problem = self.graph.problem(name)
        facts = problem.facts
        if facts is None or facts.note:
            return None
        held = facts.saved_bytes + facts.parameter_bytes
        taped = tape * problem.accumulation * (2 * facts.saved_bytes + 2 * facts.parameter_bytes)
        return Estimate(flops=facts.step_flops, bytes=held + taped)

    def respond(self, name: str, method: Method) -> Estimate | None:
        """One solve and one mixed product into everything that the lower's loss reads."""
        problem = self.graph.problem(name)
        facts = problem.facts
        if facts is None or facts.note:
            return None
        if method.unrolled:
            steps = int(method.solver["steps"] or 1)
            return Estimate(
                flops=2 * steps * problem.accumulation * facts.backward_flops, bytes=2 * facts.parameter_bytes
            )
        return Estimate(
            flops=problem.accumulation * _implicit_flops(facts, method),
            bytes=COPIES.get(method.solver.name, 2) * facts.parameter_bytes + _product_bytes(facts, method),
        )


def products(method: Method) -> int:
    """Hessian-vector products of an inverse, at most."""
    return int(dict(method.solver.options).get("iterations") or 0)


def _implicit_flops(facts: Facts, method: Method) -> int:
    if method.product is not None and method.product.name == "finite_difference":
        return 2 * (products(method) + 1) * facts.step_flops
    return facts.step_flops + 2 * (products(method) + 1) * facts.backward_flops


def _product_bytes(facts: Facts, method: Method) -> int:
    if method.product is not None and method.product.name == "finite_difference":
        return facts.saved_bytes + 2 * facts.parameter_bytes
    return 2 * facts.saved_bytes + facts.parameter_bytes
