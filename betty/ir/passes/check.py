"""Check: do the declared problems and edges form a multilevel program?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx

from betty.ir.diagnostics import Diagnostic, GraphError
from betty.ir.graph import Edge, Graph, Problem
from betty.ir.passes.base import Stage
from betty.ir.records import Flow
from betty.ir.sharded import diagnose_sharded


@dataclass(frozen=True)
class Check:
    """Refuse cycles, flows that no loss reads, losses that read without a flow, and uppers that nobody answers."""

    name: str = "check"
    requires: Stage = Stage.DECLARED
    ensures: Stage = Stage.CHECKED

    def apply(self, graph: Graph) -> Graph:
        if found := diagnose(graph):
            raise GraphError(found)
        return graph


def diagnose(graph: Graph) -> list[Diagnostic]:
    """Everything wrong with the program; fields are ``("edges", i, ...)`` or ``("problems", name, ...)``."""
    cycles = list(_cycles(graph))
    reads = [
        *_read_weights(graph),
        *_unread_flows(graph),
        *_undeclared_reads(graph),
        *_undeclared_update_reads(graph),
        *_unseen(graph),
    ]
    return [*cycles, *reads, *([] if cycles else _unanswered(graph)), *diagnose_sharded(graph)]


def _cycles(graph: Graph) -> Iterator[Diagnostic]:
    """One diagnostic for each knot of problems that are, through others, upper to themselves."""
    for knot in nx.strongly_connected_components(graph.digraph):
        if len(knot) < 2:
            continue
        first = next(problem.name for problem in graph.problems if problem.name in knot)
        around = [start for start, _ in nx.find_cycle(graph.digraph.subgraph(knot), first)]
        closing = graph.edge(around[0], around[-1])
        yield Diagnostic(
            code="cycle",
            field=("edges", graph.edges.index(closing) if closing else 0),
            message=f"lower-to-upper flows form a cycle: {' -> '.join([*around, around[0]])}",
            expected="every problem strictly below its uppers",
            hint="remove one of these edges, or swap its upper and lower",
        )


def _read_weights(graph: Graph) -> Iterator[Diagnostic]:
    """Losses that name example weights, which are there without a name: each weighs the loss of its example."""
    weights = {problem.name for problem in graph.problems if problem.weights is not None}
    for problem in graph.problems:
        for read in weights & set(problem.reads or ()):
            yield Diagnostic(
                code="read-weights",
                field=("problems", problem.name, "loss"),
                message=f"the loss of {problem.name!r}{_named(problem)} reads {read!r}, which are example weights",
                expected="a loss that gives one number for each example, which its weight is a factor of",
                hint=f"a loss without the argument {read}",
            )


def _unread_flows(graph: Graph) -> Iterator[Diagnostic]:
    for index, edge in enumerate(graph.edges):
        for reader, read, other in _flow_reads(edge):
            problem = graph.problem(reader)
            if graph.problem(edge.upper).weights is not None and reader == edge.lower:
                continue  # its examples are weighted, whatever the loss reads
            if problem.reads is None or read in problem.reads or read in problem.update_reads:
                continue
            yield Diagnostic(
                code="unread-flow",
                field=("edges", index, "flow"),
                message=f"flow {edge.flow.value!r} lets {reader!r} read {read!r}, "
                f"but its loss{_named(problem)} does not",
                expected=f"a parameter named {read} in that loss",
                hint=f"flow: {other.value}" if edge.flow is Flow.BOTH else f"remove the edge {edge.name}",
            )


def _flow_reads(edge: Edge) -> Iterator[tuple[str, str, Flow]]:
    """(reader, read, the flow that would remain without this reading)."""
    if edge.flow.down:
        yield edge.lower, edge.upper, Flow.UP
    if edge.flow.up:
        yield edge.upper, edge.lower, Flow.DOWN


def _undeclared_reads(graph: Graph) -> Iterator[Diagnostic]:
    for problem in graph.problems:
        for read in problem.reads or ():
            if read == problem.name or read not in graph or read in graph.reads(problem.name):
                continue
            yield Diagnostic(
                code="undeclared-read",
                field=("problems", problem.name, "loss"),
                message=f"the loss of {problem.name!r}{_named(problem)} reads {read!r}, but no flow brings it",
                expected="an edge for every problem that a loss reads",
                hint=_missing_edge(graph, problem.name, read),
            )


def _undeclared_update_reads(graph: Graph) -> Iterator[Diagnostic]:
    for problem in graph.problems:
        for read in problem.update_reads:
            edge = graph.edge(read, problem.name)
            if read not in graph or read == problem.name or (edge is not None and edge.flow.down):
                continue
            yield Diagnostic(
                code="undeclared-read",
                field=("problems", problem.name),
                message=f"the updates of {problem.name!r} read {read!r}, but no flow brings it",
                expected=f"an edge from the upper {read} to the lower {problem.name}, whose flow is down or both",
                hint=f"flow: both on the edge {edge.name}"
                if edge
                else f"edges: - {{upper: {read}, lower: {problem.name}}}",
            )


def _unseen(graph: Graph) -> Iterator[Diagnostic]:
    """Methods that look at the lower's loss alone, where the upper is read by the lower's updates alone."""
    for index, edge in enumerate(graph.edges):
        lower, method = graph.problem(edge.lower), edge.method
        by_loss = lower.reads is None or edge.upper in lower.reads
        if method is None or method.sees_updates or by_loss or edge.upper not in lower.update_reads:
            continue
        yield Diagnostic(
            code="unseen-upper",
            field=("edges", index, "method"),
            message=f"{method.solver.name!r} looks at the loss of {edge.lower!r}, which does not read {edge.upper!r}: "
            "its updates do, so that the response would be zero",
            expected="a method that looks at updates: unrolled, forward_mode or evolution_strategies",
            hint="method: unrolled",
        )


def _missing_edge(graph: Graph, reader: str, read: str) -> str:
    if graph.edge(reader, read) or graph.edge(read, reader):
        edge = graph.edge(reader, read) or graph.edge(read, reader)
        return f"flow: both on the edge {edge.name}" if edge else ""
    return f"edges: - {{upper: {reader}, lower: {read}, flow: up}}, or {{upper: {read}, lower: {reader}, flow: down}}"


def _unanswered(graph: Graph) -> Iterator[Diagnostic]:
    for index, edge in enumerate(graph.edges):
        if edge.flow.down and not _answers(graph, edge):
            yield Diagnostic(
                code="unanswered-upper",
                field=("edges", index, "flow"),
                message=f"{edge.upper!r} acts on {edge.lower!r}, but no solution answers: "
                f"nothing that depends on {edge.lower!r} is read by the loss of {edge.upper!r}",
                expected=f"flow: both, or up flows that lead from {edge.lower} to {edge.upper}",
                hint="flow: both",
            )


def _answers(graph: Graph, edge: Edge) -> bool:
    """Whether what the upper does to the lower comes back to the upper's own loss."""
    seen, front = {edge.lower}, [edge.lower]
    while front:
        for reader in graph.readers(front.pop()):
            if reader == edge.upper:
                return True
            if reader not in seen:
                seen.add(reader)
                front.append(reader)
    return False


def _named(problem: Problem) -> str:
    return f" ({problem.loss})" if problem.loss else ""
