"""What a drawing says: the lines in a node, the label of an arrow, the texts shown on hovering.

Every form of drawing (DOT, Mermaid, SVG) takes its words from here, so that all of them say the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from betty.ir.explain import amount
from betty.ir.graph import Edge, Graph, Problem
from betty.ir.methods import Method
from betty.ir.records import Facts, Flow

LEGEND: tuple[tuple[Flow, tuple[str, str]], ...] = (
    (Flow.DOWN, ("down: the lower's loss", "reads the upper's parameters")),
    (Flow.UP, ("up: the upper's loss", "reads the lower's solution")),
)

NAME_WIDTH = 30
NAME_LINES = 3


@dataclass(frozen=True, kw_only=True)
class Arrow:
    """One flow of an edge.

    Args:
        edge: The edge it belongs to.
        flow: ``down`` or ``up``, never ``both``.
        lines: Its label, line by line.
        tooltip: Everything known of it, as several lines of text.
    """

    edge: Edge
    flow: Flow
    lines: tuple[str, ...]
    tooltip: str


def arrows(graph: Graph, edge: Edge) -> tuple[Arrow, ...]:
    """One arrow for each flow of ``edge``, ``down`` first; what is said of the edge itself stands on the last."""
    flows = [flow for flow, there in ((Flow.DOWN, edge.flow.down), (Flow.UP, edge.flow.up)) if there]
    about = edge_lines(graph, edge)
    return tuple(
        Arrow(
            edge=edge,
            flow=flow,
            lines=(flow.value, *(about if flow is flows[-1] else ())),
            tooltip=edge_tooltip(graph, edge, flow),
        )
        for flow in flows
    )


def edge_lines(graph: Graph, edge: Edge) -> tuple[str, ...]:
    """The method of the lower's response and how many lower updates go with one upper update."""
    chosen = " (auto)" if edge.reason and (edge.method or edge.valuation) else ""
    if edge.valuation is not None:
        return (edge.valuation.brief() + chosen, "logs and scores")
    unroll = graph.problem(edge.lower).unroll
    return (method_text(edge.method) + chosen, *((f"unroll {unroll}",) if unroll != 1 else ()))


def method_text(method: Method | None) -> str:
    """``cg · reverse``; a trajectory method says over how many steps; ``auto`` where nothing is chosen yet."""
    if method is None:
        return "auto"
    if method.product is not None:
        return f"{method.solver.name} · {method.product.name}"
    steps = dict(method.solver.options).get("steps")
    return f"{method.solver.name} · {steps} step{'' if steps == 1 else 's'}" if steps else method.solver.name


def edge_tooltip(graph: Graph, edge: Edge, flow: Flow) -> str:
    down = f"down: the loss of {edge.lower} reads the parameters of {edge.upper}"
    up = f"up: the loss of {edge.upper} reads the solution of {edge.lower}"
    if graph.problem(edge.upper).weights is not None:
        down = f"down: the losses of the examples of {edge.lower} are weighted, each by one"
    rows = [down if flow is Flow.DOWN else up]
    method = edge.method or edge.valuation
    rows.append(f"method: {method.to_text() if method else 'auto'}")
    if edge.reason:
        rows.append(f"chosen automatically: {edge.reason}")
    if edge.valuation is not None:
        return clean("\n".join(rows))
    rows.append(f"unroll: {graph.problem(edge.lower).unroll}")
    return clean("\n".join(rows))


def node_details(problem: Problem) -> tuple[str, ...]:
    """The lines under a problem's name; what is unknown or at its default is left out."""
    level = "" if problem.level is None else f"level {problem.level}"
    unusual = (
        problem.precision if problem.precision != "fp32" else "",
        f"{problem.accumulation} micro-batches per update" if problem.accumulation != 1 else "",
    )
    weights = problem.weights
    size = size_text(problem.facts)
    if weights is not None:
        size = f"{weights.examples:,} examples" if weights.examples else "one for each example"
    kind = "example weights" if weights is not None else problem.optimizer
    rows = ((level, kind), (size,), unusual)
    return tuple(clean(" · ".join(filter(None, row))) for row in rows if any(row))


def node_tooltip(problem: Problem) -> str:
    rows = (
        problem.name,
        f"loss: {problem.loss}" if problem.loss else "",
        f"reads: {', '.join(problem.reads)}" if problem.reads else "",
        f"parameters: {problem.facts.parameters:,}" if size_text(problem.facts) and problem.facts else "",
        _turn(problem),
        f"warm-up: {problem.warm_up} micro-batches" if problem.warm_up else "",
    )
    return clean("\n".join(filter(None, rows)))


def _turn(problem: Problem) -> str:
    """When a problem steps, where that is not in every iteration."""
    if problem.weights is not None:
        return "example weights: valued once the problem below is trained"
    return f"steps every {problem.period} iterations" if problem.period and problem.period > 1 else ""


def size_text(facts: Facts | None) -> str:
    """``0.27 M params``, as the plan prints it; empty where unknown."""
    if facts is None or (facts.parameters == 0 and facts.note):
        return ""
    return f"{amount(facts.parameters)} param{'' if facts.parameters == 1 else 's'}"


def name_lines(name: str) -> tuple[str, ...]:
    """The name broken after ``_``, ``-``, ``.`` or a space into a few lines; what is still too long is cut with ``…``.

    The full name is always shown on hovering.
    """
    lines: list[str] = [""]
    for part in _parts(clean(name)):
        if lines[-1] and len(lines[-1]) + len(part) > NAME_WIDTH:
            lines.append("")
        lines[-1] += part
    if len(lines) > NAME_LINES:
        lines = [*lines[: NAME_LINES - 1], lines[NAME_LINES - 1][: NAME_WIDTH - 1] + "…"]
    return tuple(line.strip() for line in lines)


def _parts(name: str) -> list[str]:
    """Pieces between which a line may be broken, none longer than a line."""
    pieces = re.findall(r"[^_\-.\s]*[_\-.\s]+|[^_\-.\s]+", name)
    return [piece[at : at + NAME_WIDTH] for piece in pieces for at in range(0, len(piece), NAME_WIDTH)]


def clean(text: str) -> str:
    """``text`` without the characters that XML forbids."""
    return re.sub(
        r"[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text
    )


def headline(graph: Graph) -> str:
    """``learning-to-reweight: 2 problems, 1 edge``, what a drawing is called by a screen reader."""
    return clean(f"{graph.name}: {_count(len(graph.problems), 'problem')}, {_count(len(graph.edges), 'edge')}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
