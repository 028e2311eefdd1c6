"""Cost: what each instruction is expected to compute and to hold, from the facts of a trace.

Work is counted in passes over a problem's loss. With forward pass F and backward pass B of the lower's loss:

- linearising (the gradient with its graph) takes F + B,
- a product by ``reverse`` through that graph about 2 B, the graph being twice as long as the loss's own,
- a product by ``forward`` a forward pass with tangents, 3 F (the tangent of a matrix product is two of them), and where
  it is by the lower's own parameters a backward pass with tangents as well, 3 B,
- a product by ``finite_difference`` two gradients, 2 (F + B), and no graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from betty.ir.graph import Graph
from betty.ir.methods import Method
from betty.ir.plan import Estimate
from betty.ir.records import Facts

COPIES = {"identity": 0, "sama": 1, "neumann": 2, "cg": 4, "minres": 7}
"""Copies of the lower's parameters that an inverse keeps."""


@dataclass(frozen=True)
class Costs:
    """Estimates for the instructions of one graph; ``None`` where the problem was not traced."""

    graph: Graph

    def differentiate(self, name: str, tape: int = 0, columns: int = 0) -> Estimate | None:
        """One evaluation and its backward pass.

        With a tape, the graphs of ``tape`` updates are held as well. With columns, as many derivatives of the
        parameters are carried along: a gradient with tangents for each.
        """
        problem = self.graph.problem(name)
        facts = problem.facts
        if facts is None or facts.note:
            return None
        held = facts.gradient_bytes or facts.saved_bytes + facts.parameter_bytes
        taped = tape * taped_bytes(facts, problem.accumulation)
        carried = columns * (facts.parameter_bytes + facts.state_bytes)
        return Estimate(flops=(1 + 3 * columns) * facts.step_flops, bytes=held + taped + carried)

    def respond(self, name: str, method: Method) -> Estimate | None:
        """One solve and one mixed product into everything that the lower's loss reads."""
        problem = self.graph.problem(name)
        facts = problem.facts
        if facts is None or facts.note:
            return None
        if not method.implicit:
            flops = _UNPAIRED[method.solver.name](facts, method)
            return Estimate(flops=problem.accumulation * flops, bytes=response_bytes(facts, method))
        return Estimate(
            flops=problem.accumulation * _implicit_flops(facts, method),
            bytes=response_bytes(facts, method),
        )


def products(method: Method, parameters: int) -> int:
    """Hessian-vector products of an inverse, at most, for a lower of so many parameters."""
    options = dict(method.solver.options)
    if method.solver.name == "dense":
        return parameters
    found = int(options.get("rank") or options.get("iterations") or 0)
    return found + int(bool(options.get("warm_start")))


def _copies(facts: Facts, method: Method) -> int:
    if method.solver.name == "dense":
        return facts.parameters
    if method.solver.name == "nystrom":
        return 2 * int(method.solver["rank"] or 0)
    return COPIES.get(method.solver.name, 2)


def _implicit_flops(facts: Facts, method: Method) -> int:
    several, name = products(method, facts.parameters), method.product.name if method.product else ""
    if name == "finite_difference":
        return 2 * (several + 1) * facts.step_flops
    if name == "forward":
        return 3 * several * facts.step_flops + 3 * facts.forward_flops
    return facts.step_flops + 2 * (several + 1) * facts.backward_flops


def taped_bytes(facts: Facts, accumulation: int) -> int:
    """What the graph of one update keeps alive."""
    if not facts.graph_bytes:
        return accumulation * (2 * facts.saved_bytes + 2 * facts.parameter_bytes)
    return accumulation * facts.graph_bytes + facts.update_bytes


def response_bytes(facts: Facts, method: Method) -> int:
    """What a response holds at its peak, beside the adjoint that it answers."""
    whole = facts.parameter_bytes
    gradient = facts.gradient_bytes or facts.saved_bytes
    if method.product is not None:
        held = _copies(facts, method) * whole + _product_bytes(facts, method)
        # The adaptation itself, which is over before the product begins.
        return max(held, 6 * whole) if method.solver.name == "sama" and facts.gradient_bytes else held
    if method.unrolled:
        again = taped_bytes(facts, 1) if method.solver["remat"] else 0
        return 2 * whole + facts.product_bytes + again
    if method.solver.name == "forward_mode":
        return whole  # the derivative has been carried along by the updates
    return gradient + {"penalty": 2 * whole, "evolution_strategies": 3 * whole + facts.state_bytes}.get(
        method.solver.name, 0
    )


def _product_bytes(facts: Facts, method: Method) -> int:
    name = method.product.name if method.product else ""
    if name == "finite_difference":  # where measured, the moved parameters take the place of their gradient
        return facts.gradient_bytes or facts.saved_bytes + 2 * facts.parameter_bytes
    second = 2 * facts.saved_bytes + facts.parameter_bytes
    if name == "forward":
        solves = method.solver.name not in ("identity", "sama")
        return (max(facts.tangent_bytes, facts.mixed_bytes) if solves else facts.mixed_bytes) or second
    return facts.graph_bytes + facts.product_bytes or second


def _unrolled(facts: Facts, method: Method) -> int:
    again = facts.step_flops if method.solver["remat"] else 0
    return (method.steps or 1) * (2 * facts.backward_flops + again)


def _forward_mode(facts: Facts, method: Method) -> int:
    return 0


def _penalty(facts: Facts, method: Method) -> int:
    return (int(method.solver["iterations"] or 1) + 2) * facts.step_flops


def _reinforce(facts: Facts, method: Method) -> int:
    return (method.steps or 1) * facts.step_flops


def _evolution(facts: Facts, method: Method) -> int:
    return 2 * int(method.solver["samples"] or 1) * (method.steps or 1) * facts.step_flops


_UNPAIRED: dict[str, Callable[[Facts, Method], int]] = {
    "unrolled": _unrolled,
    "forward_mode": _forward_mode,
    "penalty": _penalty,
    "reinforce": _reinforce,
    "evolution_strategies": _evolution,
}
"""Work of a response, for one micro-batch an update."""
