"""SVG by the built-in layout, for machines without Graphviz."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from betty.ir.graph import Graph
from betty.render.items import NAME_SIZE, TEXT_LINE, Scene, scene, width
from betty.render.order import order
from betty.render.place import Band, place
from betty.render.routes import RAIL, edge_of, lines
from betty.render.shapes import add_box, add_legend, add_line, add_text, legend_width
from betty.render.style import FONTS, LIGHT, SCALE
from betty.render.tree import add, dress, tag, to_text
from betty.render.words import clean

MARGIN = 16.0
HEADING = 34.0
FOOT = 28.0 + 2 * TEXT_LINE


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where the layout begins and ends, in its own coordinates, and the size of the paper that it is put on."""

    left: float
    right: float
    wide: float
    high: float

    @property
    def shift(self) -> float:
        """Moves the layout to the middle of the paper, where heading or legend are the wider ones."""
        return (self.wide - self.left - self.right) / 2


def to_svg(graph: Graph) -> str:
    """A drawing of ``graph`` as SVG text, laid out in plain Python without Graphviz.

    Problems stand in rows by level, upper ones at the top; lines bend only between rows and never run through a
    problem or a label. The background is transparent, and colours follow the reader's light or dark preference.
    Colours for light pages also stand in attributes, for programs that ignore style sheets.
    """
    drawn = scene(graph)
    order(drawn)
    bands = place(drawn)
    frame = _frame(graph, drawn, bands)
    root = _root(graph, frame)
    _add_layout(root, drawn, bands, frame)
    add_legend(root, (frame.wide - legend_width()) / 2, frame.high - MARGIN - 2 * TEXT_LINE)
    return to_text(root)


def _frame(graph: Graph, drawn: Scene, bands: list[Band]) -> Frame:
    items = [item for row in drawn.rows for item in row]
    rails = RAIL * sum(strand.aside for strand in drawn.strands)
    left = min((item.x - item.left for item in items), default=0.0) - rails
    right = max((item.x + item.right for item in items), default=0.0)
    wide = max(right - left, legend_width(), width(clean(graph.name), NAME_SIZE)) + 2 * MARGIN
    high = HEADING + (bands[-1].bottom if bands else 0.0) + FOOT + 2 * MARGIN
    return Frame(left=left, right=right, wide=wide, high=high)


def _root(graph: Graph, frame: Frame) -> ET.Element:
    root = ET.Element(tag("svg"), {"viewBox": f"0 0 {frame.wide:.0f} {frame.high:.0f}", "font-family": FONTS})
    root.set("width", f"{frame.wide * SCALE:.0f}")
    root.set("height", f"{frame.high * SCALE:.0f}")
    dress(root, graph)
    at = (frame.wide / 2, MARGIN + NAME_SIZE / 2)
    add_text(root, clean(graph.name), at, {"fill": LIGHT.ink, "font-size": NAME_SIZE}, kinds="heading")
    return root


def _add_layout(root: ET.Element, drawn: Scene, bands: list[Band], frame: Frame) -> None:
    body = add(root, "g", {"transform": f"translate({frame.shift:.1f} {MARGIN + HEADING:.1f})"})
    for line in lines(drawn, bands):
        add_line(body, line)
    for row in drawn.rows:
        for item in row:
            if item.problem:
                add_box(body, item, item.problem, edge_of(item, bands, bottom=False))
