"""Schedule: how often, and in which order, the problems step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import networkx as nx

from betty.ir.graph import Graph
from betty.ir.passes.base import Stage


@dataclass(frozen=True)
class Schedule:
    """Give every problem its period: the iterations between two of its steps.

    A leaf steps in every iteration. Any other problem steps as soon as each of its lowers has completed ``unroll``
    updates (each of ``accumulation`` micro-batches) since the problem's last step; its slowest lower sets the
    pace, and its steps fall on that lower's. Example weights have their turn once, after the last iteration.
    """

    name: str = "schedule"
    requires: Stage = Stage.LEVELLED
    ensures: Stage = Stage.SCHEDULED

    def apply(self, graph: Graph) -> Graph:
        periods: dict[str, int] = {}
        for name in nx.topological_sort(graph.digraph):
            lowers = (graph.problem(lower) for lower in graph.lowers(name))
            periods[name] = max((periods[low.name] * low.unroll * low.accumulation for low in lowers), default=1)
            if graph.problem(name).weights is not None:
                periods[name] = graph.settings.iterations
        return graph.map(problem=lambda one: replace(one, period=periods[one.name]))


def order(graph: Graph) -> tuple[str, ...]:
    """The order of steps inside one iteration: leaves as declared, each upper as soon as its last lower is done."""
    waiting = {problem.name: len(graph.lowers(problem.name)) for problem in graph.problems}
    done: list[str] = []
    front = list(reversed(graph.leaves))
    while front:
        name = front.pop()
        done.append(name)
        for upper in reversed(graph.uppers(name)):
            waiting[upper] -= 1
            if not waiting[upper]:
                front.append(upper)
    return tuple(done)
