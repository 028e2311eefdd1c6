"""The textual IR of graphs and plans: one line a record, read by people and by :mod:`betty.ir.parse`.

A line is a keyword, a subject and ``key=JSON`` pairs; fields at their default are left out. Names that are no
identifiers are written as JSON strings.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from betty.ir.graph import Edge, Graph, Problem, Settings
from betty.ir.methods import Method
from betty.ir.plan import Instruction, Plan, Respond, Step

ARROW = "->"


def graph_to_text(graph: Graph) -> str:
    """The graph as text; ``parse_graph`` gives an equal graph back."""
    lines = [f"graph {quoted(graph.name)}{_pairs(graph.settings)}"]
    lines += [f"  problem {quoted(problem.name)}{_pairs(problem, 'name')}" for problem in graph.problems]
    lines += [_edge(edge) for edge in graph.edges]
    return "\n".join(lines) + "\n"


def plan_to_text(plan: Plan) -> str:
    """The plan as text; ``parse_plan`` gives an equal plan back."""
    lines = [f"plan {quoted(plan.name)}{_pairs(plan, 'name', 'steps')}"]
    for step in plan.steps:
        lines.extend(_step(step))
    return "\n".join(lines) + "\n"


def _edge(edge: Edge) -> str:
    return f"  edge {quoted(edge.upper)} {ARROW} {quoted(edge.lower)}{_pairs(edge, 'upper', 'lower')}"


def _step(step: Step) -> Iterator[str]:
    yield f"  step {quoted(step.problem)}{_pairs(step, 'problem', 'instructions')}"
    for index, item in enumerate(step.instructions):
        subject = f" {quoted(item.problem)}" if isinstance(item, Respond) else ""
        yield f"    %{index} = {item.op}{subject}{_pairs(item, 'problem')}"


def _pairs(record: Problem | Edge | Settings | Plan | Step | Instruction, *without: str) -> str:
    """`` key=value`` for every field that is not at its default."""
    found = ""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.name not in without and value != field.default:
            found += f" {field.name}={_value(value)}"
    return found


def _value(value: Any) -> str:
    if isinstance(value, Method):
        return json.dumps(value.to_text(), ensure_ascii=False)
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """Records as mappings of what differs from their defaults."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: (getattr(value, field.name), field.default) for field in dataclasses.fields(value)}
        return {name: found for name, (found, default) in fields.items() if found != default}
    return value


def quoted(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else json.dumps(name, ensure_ascii=False)


