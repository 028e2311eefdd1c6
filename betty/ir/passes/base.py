"""What a pass is, and the manager that runs passes, holds them to their word and keeps the graph after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from betty.ir.diagnostics import PlanError
from betty.ir.graph import Graph
from betty.ir.verify import violations


class Stage(IntEnum):
    """How far a graph has come; each stage promises all that the ones before it promise."""

    DECLARED = 0
    """As the front end built it: names are known and unique."""
    CHECKED = 1
    """A multilevel program: no cycle, every flow is read, every upper is answered."""
    LEVELLED = 2
    """Every problem knows its level."""
    SCHEDULED = 3
    """Every problem knows its period."""
    RESOLVED = 4
    """Every edge knows its method."""


class Pass(Protocol):
    """A rewrite of the graph. It returns the same object when nothing changes."""

    @property
    def name(self) -> str: ...
    @property
    def requires(self) -> Stage: ...
    @property
    def ensures(self) -> Stage: ...
    def apply(self, graph: Graph) -> Graph: ...


@dataclass(frozen=True)
class Snapshot:
    """The graph after one pass, and whether that pass changed it."""

    after: str
    graph: Graph
    changed: bool


def run_passes(graph: Graph, pipeline: Sequence[Pass], stage: Stage = Stage.DECLARED) -> tuple[Graph, list[Snapshot]]:
    """Run ``pipeline`` in order; the graph after the last pass, and one snapshot a pass.

    Raises:
        PlanError: A pass is run before the stage that it requires, or leaves a graph that breaks a rule of the
            stage that it ensures (see ``betty.ir.verify``); the rule, the problem and the pass are named.
        GraphError: The program itself is wrong (from the pass ``check``).
    """
    trace: list[Snapshot] = []
    for step in pipeline:
        if stage < step.requires:
            raise PlanError(f"pass {step.name!r} needs a graph that is {step.requires.name}, not {stage.name}")
        before, graph = graph, step.apply(graph)
        stage = max(stage, step.ensures)
        if broken := violations(graph, stage):
            raise PlanError(f"after pass {step.name!r}: " + "; ".join(broken))
        trace.append(Snapshot(step.name, graph, changed=graph is not before))
    return graph, trace
