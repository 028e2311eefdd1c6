"""Levels: how deep below each problem the chain of lowers goes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import networkx as nx

from betty.ir.graph import Graph
from betty.ir.passes.base import Stage


@dataclass(frozen=True)
class Levels:
    """A leaf has level 0; any other problem one more than its highest lower."""

    name: str = "levels"
    requires: Stage = Stage.CHECKED
    ensures: Stage = Stage.LEVELLED

    def apply(self, graph: Graph) -> Graph:
        levels: dict[str, int] = {}
        for name in nx.topological_sort(graph.digraph):
            levels[name] = max((levels[lower] + 1 for lower in graph.lowers(name)), default=0)
        return graph.map(problem=lambda one: replace(one, level=levels[one.name]))
