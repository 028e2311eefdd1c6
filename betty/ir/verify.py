"""Which graphs are legal at which stage: one table of rules, run after every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import networkx as nx

from betty.ir.graph import Graph

Rule = Callable[[Graph], Iterator[str]]


def acyclic(graph: Graph) -> Iterator[str]:
    if not nx.is_directed_acyclic_graph(graph.digraph):
        yield "the hierarchy of problems has a cycle"


def levelled(graph: Graph) -> Iterator[str]:
    for problem in graph.problems:
        if problem.level is None:
            yield f"problem {problem.name!r} has no level"
    for edge in graph.edges:
        lower, upper = graph.problem(edge.lower).level, graph.problem(edge.upper).level
        if lower is not None and upper is not None and lower >= upper:
            yield f"edge {edge.name} does not rise: levels {upper} and {lower}"


def scheduled(graph: Graph) -> Iterator[str]:
    for problem in graph.problems:
        if problem.period is None or problem.period < 1:
            yield f"problem {problem.name!r} has no period"


def resolved(graph: Graph) -> Iterator[str]:
    for edge in graph.edges:
        if edge.method is None and edge.valuation is None:
            yield f"edge {edge.name} has no method"


# Indexed by stage: a graph at stage n obeys every rule of the stages up to n.
RULES: tuple[tuple[Rule, ...], ...] = ((), (acyclic,), (levelled,), (scheduled,), (resolved,))


def violations(graph: Graph, stage: int) -> list[str]:
    """Sentences that name each broken rule of ``stage`` and of the stages before it."""
    return [text for rules in RULES[: stage + 1] for rule in rules for text in rule(graph)]
