"""Which problems share a row of a drawing: their levels, or a substitute where levels are unknown."""

from __future__ import annotations

import networkx as nx

from betty.ir.graph import Edge, Graph

Ranks = dict[str, int]


def ranks(graph: Graph) -> Ranks:
    """The rank of every problem, 0 for the lowest; each edge joins two different ranks.

    These are the levels where every problem has one and every edge rises. Before the pass ``levels``, or where a
    graph has cycles and will never get levels, it is the longest chain of edges below a problem.
    """
    known = {problem.name: problem.level for problem in graph.problems if problem.level is not None}
    if len(known) == len(graph.problems) and all(known[edge.lower] < known[edge.upper] for edge in graph.edges):
        return known
    return _longest_chains(graph)


def _longest_chains(graph: Graph) -> Ranks:
    order = _order(graph)
    position = {name: index for index, name in enumerate(order)}
    below: dict[str, list[str]] = {name: [] for name in order}
    for edge in graph.edges:
        first, last = sorted((edge.lower, edge.upper), key=position.__getitem__)
        below[last].append(first)
    found: Ranks = {}
    for name in order:
        found[name] = max((found[other] + 1 for other in below[name]), default=0)
    return found


def _order(graph: Graph) -> list[str]:
    """Lowers before uppers; within a cycle, the order of declaration."""
    condensed = nx.condensation(graph.digraph)
    groups = (condensed.nodes[group]["members"] for group in nx.topological_sort(condensed))
    return [name for members in groups for name in sorted(members, key=graph.position)]


def rows(graph: Graph, ranked: Ranks) -> list[list[str]]:
    """Names by rank, the highest first; within a rank in the order of declaration. No row is empty."""
    by_rank: dict[int, list[str]] = {}
    for problem in graph.problems:
        by_rank.setdefault(ranked[problem.name], []).append(problem.name)
    return [by_rank[rank] for rank in sorted(by_rank, reverse=True)]


def ends(edge: Edge, ranked: Ranks) -> tuple[str, str]:
    """The end that is drawn higher, and the other; in a cycle the higher one may be the lower problem."""
    return (edge.upper, edge.lower) if ranked[edge.upper] > ranked[edge.lower] else (edge.lower, edge.upper)
