"""The methods that a check compares: all that the tables of ``betty.ir.methods`` hold."""

from __future__ import annotations

from dataclasses import replace

from betty.backends.torch.program import LiveProblem
from betty.backends.torch.updates import rule_for
from betty.ir.applicable import misfit
from betty.ir.compile import compile_graph
from betty.ir.graph import Edge, Graph, Problem
from betty.ir.methods import INVERSES, PRODUCTS, TRAJECTORIES, UNPAIRED, Method, complete
from betty.ir.plan import Plan, Respond, Update
from betty.ir.quantities import bytes_text

TAPE_BYTES = 2**30
"""Saved activations that the updates which a trajectory method looks back on may take."""


def candidates(chosen: Method) -> list[Method]:
    """Every inverse with every product, and every method without one, with default options.

    The chosen method stands in the place of the one that differs from it in options alone, and comes first.
    """
    paired = [
        Method(solver=complete(inverse, INVERSES[inverse], {}), product=complete(product, PRODUCTS[product], {}))
        for inverse in INVERSES
        for product in PRODUCTS
    ]
    alone = [Method(solver=complete(name, declared, {})) for name, declared in UNPAIRED.items()]
    others = [one for one in (*paired, *alone) if _names(one) != _names(chosen)]
    return [chosen, *others]


def _names(method: Method) -> tuple[str, str]:
    return method.solver.name, method.product.name if method.product else ""


def name_of(method: Method) -> str:
    """``inverse + product``, or the name alone of a method without one."""
    return " + ".join(part for part in _names(method) if part)


def with_method(graph: Graph, edge: Edge, method: Method) -> Graph:
    """The graph with another method on one edge."""
    return graph.map(edge=lambda one: replace(one, method=method, reason="") if one.name == edge.name else one)


def plan_with(graph: Graph, edge: Edge, method: Method) -> Plan:
    """The plan with another method on one edge.

    Raises:
        GraphError: The method does not go with this program.
    """
    return compile_graph(with_method(graph, edge, method)).plan


def target_of(plan: Plan, edge: Edge) -> str | None:
    """The problem whose hypergradient passes over ``edge``: its upper, where that is one of them."""
    found = [step.problem for step in plan if any(item.edge == edge.name for item in step.responses)]
    return edge.upper if edge.upper in found else next(iter(found), None)


def responses(plan: Plan, target: str, edge: Edge) -> tuple[Respond, ...]:
    return tuple(item for item in plan.step(target).responses if item.edge == edge.name)


def expected_steps(plan: Plan, graph: Graph, target: str, edge: Edge) -> float:
    """Work of the responses over ``edge``, in steps of the lower, as far as a trace tells; what is unknown is free."""
    facts = graph.problem(edge.lower).facts
    if facts is None or not facts.step_flops:
        return 0.0
    found = responses(plan, target, edge)
    work = sum(item.estimate.flops for item in found if item.estimate is not None) / facts.step_flops
    return work + _tangents(plan, graph, target, edge)


def _tangents(plan: Plan, graph: Graph, target: str, edge: Edge) -> float:
    """What updates carry along for the target: a derivative for each of its parameters, twice the work of a step."""
    carried = [item for item in plan.step(edge.lower).instructions if isinstance(item, Update) and item.tangents]
    facts = graph.problem(target).facts
    if not carried or facts is None:
        return 0.0
    updates = max(1, plan.step(target).period // (plan.step(edge.lower).period * carried[0].every))
    return 2.0 * facts.parameters * updates


def refusal(method: Method, declared: Problem, live: LiveProblem, steps: int) -> str:
    """Why a method cannot run on this lower, as far as that is known without trying; else empty."""
    if (found := misfit(method, declared)) is not None:
        return found.reason
    facts = declared.facts
    if method.solver.name in TRAJECTORIES and live.optimizer is not None and rule_for(live.optimizer) is None:
        return f"the updates of {type(live.optimizer).__name__} have no differentiable form"
    if method.solver.name in TRAJECTORIES and live.optimizer is None:
        return f"{live.name!r} has no optimizer, so there are no updates to differentiate"
    if method.solver.name in TRAJECTORIES and facts is not None:
        held = facts.saved_bytes * steps * declared.accumulation
        if held > TAPE_BYTES:
            return f"{steps:,} updates would keep about {bytes_text(held)} of activations; give it fewer steps"
    return ""
