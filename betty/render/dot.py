"""The graph as Graphviz source."""

from __future__ import annotations

import html

import graphviz

from betty.ir.graph import Edge, Graph, Problem
from betty.ir.records import Flow
from betty.render.ranks import Ranks, ends, ranks, rows
from betty.render.style import LIGHT
from betty.render.words import LEGEND, Arrow, arrows, clean, name_lines, node_details, node_tooltip

FONT = "Helvetica"  # known to every Graphviz; the browser's choice is that of betty.render.style

BACKSLASH = "\N{SET MINUS}"
INDENT = 2 * "\N{NO-BREAK SPACE}"
ARROWHEADS = {Flow.DOWN: "empty", Flow.UP: "normal"}
STYLES = {Flow.DOWN: "dashed", Flow.UP: "solid"}
COLOURS = {Flow.DOWN: LIGHT.down, Flow.UP: LIGHT.up}


def to_dot(graph: Graph) -> str:
    """DOT source of ``graph``: upper problems at the top, problems of one level side by side.

    Down flows are dashed with hollow arrowheads, up flows solid with filled ones; a legend says so. Nodes are called
    ``p0``, ``p1``, … in the order of declaration, whatever the problems are called.
    """
    return str(drawing(graph).source)


def drawing(graph: Graph, background: str = "white") -> graphviz.Digraph:
    """The same as an object of the ``graphviz`` package, on ``background``, which may be ``transparent``."""
    dot = graphviz.Digraph(name="betty")
    dot.attr(
        "graph",
        bgcolor=background,
        fontcolor=LIGHT.ink,
        fontname=FONT,
        fontsize="13",
        label=_quoted(clean(graph.name)),
        labelloc="t",
        nodesep="0.35",
        rankdir="TB",
        ranksep="0.45",
    )
    dot.attr("node", color=LIGHT.line, fillcolor=LIGHT.fill, fontcolor=LIGHT.ink, fontname=FONT, fontsize="13")
    dot.attr("node", margin="0.16,0.09", penwidth="1.2", shape="box", style="rounded,filled")
    dot.attr("edge", arrowsize="0.9", fontname=FONT, fontsize="11", penwidth="1.4")
    ranked = ranks(graph)
    _add_problems(dot, graph, ranked)
    for edge in graph.edges:
        _add_edge(dot, graph, edge, ranked)
    _add_legend(dot, graph, ranked)
    return dot


def _add_problems(dot: graphviz.Digraph, graph: Graph, ranked: Ranks) -> None:
    for names in rows(graph, ranked):
        with dot.subgraph() as row:
            row.attr(rank="same")
            for name in names:
                _add_problem(row, graph, graph.problem(name))


def _add_problem(dot: graphviz.Digraph, graph: Graph, problem: Problem) -> None:
    bold = "<BR/>".join(f"<B>{_entities(line)}</B>" for line in name_lines(problem.name))
    details = "<BR/>".join(map(_entities, node_details(problem)))
    small = f'<BR/><FONT POINT-SIZE="11">{details}</FONT>' if details else ""
    label = f"<{bold}{small}>"
    dot.node(_key(graph, problem.name), label, tooltip=_quoted(node_tooltip(problem)))


def _add_edge(dot: graphviz.Digraph, graph: Graph, edge: Edge, ranked: Ranks) -> None:
    high, low = ends(edge, ranked)
    for arrow in arrows(graph, edge):
        # The tail is always the end drawn higher, so that `dot` keeps the levels; `dir` turns the arrow around.
        downward = (arrow.flow is Flow.DOWN) == (high == edge.upper)
        side = {"arrowhead": ARROWHEADS[arrow.flow]} if downward else {"arrowtail": ARROWHEADS[arrow.flow]}
        dot.edge(
            _key(graph, high),
            _key(graph, low),
            dir="forward" if downward else "back",
            label=_left_aligned(arrow),
            labeltooltip=_quoted(arrow.tooltip),
            tooltip=_quoted(arrow.tooltip),
            **side,
            **_look(arrow.flow),
        )


def _look(flow: Flow) -> dict[str, str]:
    return {"class": flow.value, "color": COLOURS[flow], "fontcolor": COLOURS[flow], "style": STYLES[flow]}


def _add_legend(dot: graphviz.Digraph, graph: Graph, ranked: Ranks) -> None:
    """Below everything, in one row: for each flow a short arrow that points at its explanation."""
    small = {"shape": "none", "style": "solid", "tooltip": "legend", "class": "legend", "height": "0.1"}
    with dot.subgraph() as row:
        row.attr(rank="same")
        for flow, text in LEGEND:
            words = {"fontsize": "11", "fontcolor": LIGHT.muted, "margin": "0.06,0.02"}
            row.node(f"{flow}_from", label="", width="0.1", _attributes=small)
            row.node(f"{flow}_text", label="".join(f"{line}\\l" for line in text), _attributes={**small, **words})
            shape = {"arrowhead": ARROWHEADS[flow], "tooltip": "legend"}
            row.edge(f"{flow}_from", f"{flow}_text", _attributes={**_look(flow), **shape, "class": f"legend {flow}"})
        row.edge("down_text", "up_from", style="invis")  # keeps their order
    if graph.problems:  # held from two sides, the legend is centred
        lowest = _key(graph, rows(graph, ranked)[-1][0])
        dot.edge(lowest, "down_text", style="invis")
        dot.edge(lowest, "up_from", style="invis")


def _key(graph: Graph, name: str) -> str:
    return f"p{graph.position(name)}"


def _left_aligned(arrow: Arrow) -> str:
    r"""Lines that end in ``\l`` are set flush left; the indent keeps them off the curve."""
    return "".join(f"{INDENT}{_quoted(line)}\\l" for line in arrow.lines)


def _quoted(text: str) -> str:
    return str(graphviz.escape(_entities(text)))


def _entities(text: str) -> str:
    r"""``text`` as itself in any label or tooltip, where DOT would replace ``&lt;``.

    It also replaces ``\N`` and the like, in which places and how often depends on its version; a sign that looks like
    a backslash is left alone.
    """
    return html.escape(text, quote=False).replace("\\", BACKSLASH)
