"""The pipeline: declared graph in, resolved graph and plan out."""

from __future__ import annotations

from dataclasses import dataclass

from betty.ir.graph import Graph
from betty.ir.passes.base import Pass, Snapshot, run_passes
from betty.ir.passes.check import Check
from betty.ir.passes.levels import Levels
from betty.ir.passes.lower import lower
from betty.ir.passes.methods import ChooseMethods
from betty.ir.passes.schedule import Schedule
from betty.ir.plan import Plan

PIPELINE: tuple[Pass, ...] = (
    Check(),  # first: every later pass relies on an acyclic hierarchy whose flows are real
    Levels(),  # the order in which adjoints pass through a knot of problems
    Schedule(),  # periods; an unrolled method may take its number of steps from them
    ChooseMethods(),  # last rewrite: it reads facts, optimisers and unrolls
)


@dataclass(frozen=True)
class Compiled:
    """What compiling gives: the resolved graph, its plan, and the graph after each pass."""

    graph: Graph
    plan: Plan
    trace: tuple[Snapshot, ...]


def compile_graph(graph: Graph) -> Compiled:
    """Run the pipeline and lower the result.

    Raises:
        GraphError: The program is wrong; all mistakes in one report.
    """
    resolved, trace = run_passes(graph, PIPELINE)
    return Compiled(graph=resolved, plan=lower(resolved), trace=tuple(trace))
