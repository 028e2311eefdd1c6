"""What a program may ask for whose parameters are spread over several processes: first derivatives alone."""

from __future__ import annotations

from collections.abc import Iterator

from betty.ir.diagnostics import Diagnostic
from betty.ir.graph import Graph, Problem
from betty.ir.methods import Method

FSDP = "fsdp"
"""The strategy by which each process keeps a part of every parameter."""
SOLVERS = ("identity", "sama", "penalty")
WHERE = "the strategy 'fsdp' spreads parameters over the processes"


def first_order(method: Method) -> bool:
    """Whether a method needs nothing but gradients by the live parameters and changes of these in place."""
    return method.solver.name in SOLVERS and not method.second_order


def diagnose_sharded(graph: Graph) -> Iterator[Diagnostic]:
    """One diagnostic for every edge and problem that needs more than that; none under other strategies."""
    if graph.settings.strategy != FSDP:
        return
    yield from _edges(graph)
    yield from (_update(problem) for problem in graph.problems if problem.update_reads)
    if graph.settings.roll_back:
        yield Diagnostic(
            code="unfit-strategy",
            field=("engine", "roll_back"),
            message=f"{WHERE}, and look-aheads are not taken back there",
            expected="roll_back: false, or the strategy ddp or zero",
        )


def _edges(graph: Graph) -> Iterator[Diagnostic]:
    for index, edge in enumerate(graph.edges):
        if edge.method is None or not edge.flow.down or first_order(edge.method):
            continue
        yield Diagnostic(
            code="unfit-method",
            field=("edges", index, "method"),
            message=f"{edge.method.brief()!r} {_needs(edge.method)} of {edge.lower!r}; {WHERE}, "
            "where there are first derivatives alone",
            expected="finite_difference, sama, penalty or auto, or the strategy ddp or zero for any method",
            hint=f"method: {_nearest(edge.method)}",
        )


def _needs(method: Method) -> str:
    if method.trajectory or method.sees_updates:
        return "goes back over the updates"
    if method.second_order:
        return "takes second derivatives of the loss"
    return "solves with the Hessian" if method.implicit else "looks at every draw"


def _nearest(method: Method) -> str:
    return "sama" if method.solver.name == "sama" else "finite_difference"


def _update(problem: Problem) -> Diagnostic:
    names = ", ".join(map(repr, problem.update_reads))
    return Diagnostic(
        code="unfit-strategy",
        field=("problems", problem.name),
        message=f"the updates of {problem.name!r} read {names}; {WHERE}, where updates are not differentiated",
        expected="hyperparameters and a start of its own, or the strategy ddp or zero",
    )
