"""Which methods can answer for which lowers, from the facts of a trace; and why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from betty.ir.diagnostics import Diagnostic
from betty.ir.graph import SINGLE, Graph, Problem
from betty.ir.methods import Method
from betty.ir.passes.methods import DIFFERENTIABLE_OPTIMIZERS


@dataclass(frozen=True)
class Misfit:
    """Why a method cannot answer for a lower, what would, and the nearest method that can."""

    reason: str
    expected: str
    hint: str = ""


def misfit(method: Method, lower: Problem) -> Misfit | None:
    """Why ``method`` cannot answer for ``lower``; ``None`` where it can, as far as the facts tell."""
    return next((found for test in (_optimizer, _size, _product) if (found := test(method, lower)) is not None), None)


def diagnose_methods(graph: Graph) -> Iterator[Diagnostic]:
    """One diagnostic for every edge whose chosen method cannot answer; a graph with facts."""
    together = graph.settings.strategy != SINGLE
    for index, edge in enumerate(graph.edges):
        if edge.method is None or not edge.flow.down:
            continue
        found = misfit(edge.method, graph.problem(edge.lower)) or (_apart(edge.method) if together else None)
        if found is not None:
            yield Diagnostic(
                code="unfit-method",
                field=("edges", index, "method"),
                message=found.reason,
                expected=found.expected,
                hint=found.hint,
            )


def _apart(method: Method) -> Misfit | None:
    if method.solver.name != "reinforce":
        return None
    return Misfit(
        "'reinforce' learns from what one process draws, and each of several draws for itself",
        "another method, or strategy: single",
        "method: evolution_strategies",
    )


def _optimizer(method: Method, lower: Problem) -> Misfit | None:
    if not method.adapts or not lower.optimizer or lower.optimizer in DIFFERENTIABLE_OPTIMIZERS:
        return None
    name = method.solver.name
    needs = "the optimiser's adaptation" if name == "sama" else "the optimiser's scales"
    return Misfit(
        f"{name!r} needs {needs}, and the optimizer of {lower.name!r}, {lower.optimizer}, has no differentiable update",
        f"an optimizer among {', '.join(DIFFERENTIABLE_OPTIMIZERS)}, or another inverse",
        "method: finite_difference" if name == "sama" else "precondition: false",
    )


def _size(method: Method, lower: Problem) -> Misfit | None:
    if method.solver.name != "dense" or lower.facts is None:
        return None
    limit = int(method.solver["limit"] or 0)
    if lower.facts.parameters <= limit:
        return None
    return Misfit(
        f"the Hessian of {lower.name!r} has {lower.facts.parameters:,} rows, more than the limit of {limit:,}",
        f"a lower of at most {limit:,} parameters, or a higher limit",
        "method: cg",
    )


def _product(method: Method, lower: Problem) -> Misfit | None:
    if lower.facts is None or lower.facts.note or not method.second_order:
        return None
    if not lower.facts.twice:
        what = f"{method.product.name!r}" if method.product else f"{method.solver.name!r}"
        hint = "product: finite_difference" if method.product else "method: finite_difference"
        return Misfit(
            f"{what} differentiates the loss of {lower.name!r} twice, and an operation in it cannot be",
            "a method of first derivatives",
            hint,
        )
    if method.forward and not lower.facts.forward:
        return Misfit(
            f"an operation in the loss of {lower.name!r} has no derivative in forward mode",
            "another product" if method.product else "another method",
            "product: reverse" if method.product else "method: unrolled",
        )
    return None
