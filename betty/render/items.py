"""What stands where in the built-in layout: problems on even rows, labels of edges on the odd rows between them.

An edge is a *strand*: a chain of items, one on every row from its upper end to its lower end. Every item keeps a
stretch of its row to itself and lines bend in the gaps between rows only; so no line runs through a problem or a
label, however the rows are ordered.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from itertools import pairwise

from betty.ir.graph import Edge, Graph, Problem
from betty.render.ranks import Ranks, ends, ranks, rows
from betty.render.words import Arrow, arrows, name_lines, node_details

NAME_SIZE, TEXT_SIZE = 14.0, 11.5
NAME_LINE, TEXT_LINE = 18.0, 15.0
PADDING_X, PADDING_Y = 14.0, 8.0
LANE = 7.0
"""Half the distance between the two arrows of an edge with both flows."""
LABEL_GAP = 8.0
PORT = 24.0
"""Width that a problem offers to each edge that ends at it."""
MOST_BENDS = 20_000
"""Items that edges may have in all. Strands that would exceed it run beside the drawing instead of through it."""


@dataclass(eq=False)
class Item:
    """A stretch of a row: ``left`` and ``right`` of ``x``, where its lines pass. ``x`` and order are found later."""

    row: int
    left: float = LANE
    right: float = LANE
    height: float = 0.0
    problem: Problem | None = None
    above: list[Item] = field(default_factory=list)
    below: list[Item] = field(default_factory=list)
    towards_label: Item | None = None
    """The next item of its strand on the way to the label; ``None`` for labels and problems."""
    x: float = 0.0

    @property
    def problem_name(self) -> str:
        return self.problem.name if self.problem else ""


@dataclass(eq=False)
class Strand:
    """The items of one edge from its higher end to its lower end; ``label`` is the one beside which its words stand."""

    edge: Edge
    arrows: tuple[Arrow, ...]
    items: list[Item]
    label: Item
    aside: bool = False
    """Whether it leaves the rows after its label, to run beside the drawing."""


@dataclass(eq=False)
class Scene:
    """All items by row, the top row first, and all strands in the order of the edges."""

    rows: list[list[Item]]
    strands: list[Strand]


def scene(graph: Graph) -> Scene:
    """Items for every problem and edge of ``graph``, in rows but not yet ordered or placed."""
    ranked = ranks(graph)
    by_rank = rows(graph, ranked)
    row_of = {name: 2 * row for row, names in enumerate(by_rank) for name in names}
    ports = _ports(graph, ranked)
    nodes = {problem.name: _node(problem, row_of[problem.name], ports[problem.name]) for problem in graph.problems}
    filled: list[list[Item]] = [[] for _ in range(max(2 * len(by_rank) - 1, 0))]
    for item in nodes.values():
        filled[item.row].append(item)
    spans = {edge: [row_of[name] for name in ends(edge, ranked)] for edge in graph.edges}
    aside = _aside(spans)
    strands = []
    for edge in graph.edges:
        high, low = ends(edge, ranked)
        strands.append(_strand(graph, edge, nodes[high], nodes[low], edge in aside))
    for strand in strands:
        for item in strand.items[1:-1]:
            filled[item.row].append(item)
    return Scene(rows=filled, strands=strands)


def _ports(graph: Graph, ranked: Ranks) -> dict[str, int]:
    """The most edges that meet one side of each problem."""
    above = dict.fromkeys(ranked, 0)
    below = dict.fromkeys(ranked, 0)
    for edge in graph.edges:
        high, low = ends(edge, ranked)
        below[high] += 1
        above[low] += 1
    return {name: max(above[name], below[name]) for name in ranked}


def _aside(spans: dict[Edge, list[int]]) -> set[Edge]:
    """The longest edges, from where the bends of all the shorter ones reach ``MOST_BENDS``."""
    found: set[Edge] = set()
    used = 0
    for edge, (top, bottom) in sorted(spans.items(), key=lambda item: item[1][1] - item[1][0]):
        used += bottom - top - 1
        if used > MOST_BENDS and bottom - top > 2:
            found.add(edge)
    return found


def _node(problem: Problem, row: int, ports: int) -> Item:
    names, details = name_lines(problem.name), node_details(problem)
    text = max([width(line, NAME_SIZE, bold=True) for line in names] + [width(line, TEXT_SIZE) for line in details])
    half = max(text / 2 + PADDING_X, min(ports, 25) * PORT / 2, 44.0)
    height = len(names) * NAME_LINE + len(details) * TEXT_LINE + 2 * PADDING_Y
    return Item(row=row, left=half, right=half, height=height, problem=problem)


def _strand(graph: Graph, edge: Edge, high: Item, low: Item, aside: bool) -> Strand:
    drawn = arrows(graph, edge)
    span = range(high.row + 1, low.row)
    inner = [Item(row=row) for row in (span[:1] if aside else span)]
    if len(drawn) == 1:
        for item in inner:
            item.left = item.right = LANE / 2
    middle = len(inner) // 2
    label = inner[middle if middle % 2 == 0 else middle - 1]
    _make_room(label, drawn)
    for upper, lower in pairwise(inner):
        if upper.row < label.row:
            upper.towards_label = lower
        else:
            lower.towards_label = upper
    chain = [high, *inner, low]
    joined = chain[:-1] if aside else chain
    for upper, lower in pairwise(joined):
        upper.below.append(lower)
        lower.above.append(upper)
    return Strand(edge=edge, arrows=drawn, items=chain, label=label, aside=aside)


def _make_room(label: Item, drawn: tuple[Arrow, ...]) -> None:
    """The first of two arrows has its words on the left, the last one on the right."""
    offset = LANE if len(drawn) == 2 else 0.0
    texts = [max(width(line, TEXT_SIZE) for line in arrow.lines) + LABEL_GAP + offset for arrow in drawn]
    label.right = texts[-1]
    label.left = texts[0] if len(drawn) == 2 else LANE
    label.height = max(len(arrow.lines) for arrow in drawn) * TEXT_LINE + 4.0


def width(text: str, size: float, bold: bool = False) -> float:
    """An upper estimate of the width of ``text`` in the fonts of the style sheet, at ``size`` pixels."""
    return size * (1.07 if bold else 1.0) * sum(map(_advance, text))


def _advance(character: str) -> float:
    """Width by the height of the font; somewhat above Helvetica's, so that wider substitutes fit as well."""
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    if character in " ijl|!.,:;'`()[]{}ftr·-":
        return 0.36
    return 0.92 if character in "mwMW@%—…" else 0.72 if character.isupper() else 0.6
