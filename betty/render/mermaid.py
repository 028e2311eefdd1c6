"""The graph as a Mermaid flowchart, for pages that draw it themselves."""

from __future__ import annotations

import re

from betty.ir.graph import Edge, Graph, Problem
from betty.ir.records import Flow
from betty.render.ranks import Ranks, ends, ranks, rows
from betty.render.words import LEGEND, Arrow, arrows, clean, name_lines, node_details

LINKS = {Flow.DOWN: "-.->", Flow.UP: "==>"}
"""Dotted and thick: Mermaid has one arrowhead only."""


def to_mermaid(graph: Graph) -> str:
    """A Mermaid flowchart of ``graph``: upper problems first, down flows dotted, up flows thick, and a legend.

    Nodes are called ``p0``, ``p1``, … in the order of declaration; texts are quoted, with every character that means
    something to Mermaid or HTML written as a code.
    """
    ranked = ranks(graph)
    lines = ["---", f"title: {_yaml(graph.name)}", "---", "flowchart TB"]
    for names in rows(graph, ranked):
        lines += [f"    {_node(graph, graph.problem(name))}" for name in names]
    for edge in graph.edges:
        lines += [f"    {line}" for line in _edge(graph, edge, ranked)]
    return "\n".join([*lines, *_legend()]) + "\n"


def _node(graph: Graph, problem: Problem) -> str:
    bold = [f"<b>{_escaped(line)}</b>" for line in name_lines(problem.name)]
    label = "<br/>".join([*bold, *map(_escaped, node_details(problem))])
    return f'{_key(graph, problem.name)}["{label}"]'


def _edge(graph: Graph, edge: Edge, ranked: Ranks) -> list[str]:
    """One link for each arrow. Mermaid ranks by the direction of links, so the first one must lead downwards."""
    high, low = ends(edge, ranked)
    links = [_link(graph, arrow) for arrow in arrows(graph, edge)]
    leads_down = (edge.flow.down and high == edge.upper) or (edge.flow.up and high == edge.lower)
    return links if leads_down else [f"{_key(graph, high)} ~~~ {_key(graph, low)}", *links]


def _link(graph: Graph, arrow: Arrow) -> str:
    edge = arrow.edge
    start, end = (edge.upper, edge.lower) if arrow.flow is Flow.DOWN else (edge.lower, edge.upper)
    label = "<br/>".join(map(_escaped, arrow.lines))
    return f'{_key(graph, start)} {LINKS[arrow.flow]}|"{label}"| {_key(graph, end)}'


def _legend() -> list[str]:
    lines = ["    subgraph legend", "        direction LR"]
    for flow, text in LEGEND:
        lines.append(f'        {flow}_from[" "] {LINKS[flow]} {flow}_text["{"<br/>".join(map(_escaped, text))}"]')
    return [*lines, "    end"]


def _key(graph: Graph, name: str) -> str:
    return f"p{graph.position(name)}"


def _escaped(text: str) -> str:
    """``text`` with special characters as ``#``, decimal code, ``;``; those of Markdown, except ``_`` inside a word."""
    return re.sub(r"[#&<>\"'`*~\\{}\[\]|]|(?<!\w)_|_(?!\w)", lambda found: f"#{ord(found[0])};", text)


def _yaml(text: str) -> str:
    """A double-quoted scalar of the front matter."""
    return '"' + clean(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
