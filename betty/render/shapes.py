"""The parts of a built-in drawing as SVG elements: boxes, arrows with their words, the legend."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from betty.ir.graph import Problem
from betty.ir.records import Flow
from betty.render.items import LABEL_GAP, NAME_LINE, NAME_SIZE, PADDING_Y, TEXT_LINE, TEXT_SIZE, Item, width
from betty.render.routes import HEAD_LENGTH, HEAD_WIDTH, Line, Point
from betty.render.style import DASHES, LIGHT
from betty.render.tree import Attribute, add
from betty.render.words import LEGEND, name_lines, node_details, node_tooltip

LEGEND_ARROW = 44.0
LEGEND_SPACE = 28.0
BASELINE = 0.35
"""From the middle of a line of text down to its baseline, as a part of the font's size."""

BOX: dict[str, Attribute] = {"rx": 9.0, "fill": LIGHT.fill, "stroke": LIGHT.line, "stroke-width": "1.3"}
NAME: dict[str, Attribute] = {"fill": LIGHT.ink, "font-size": NAME_SIZE, "font-weight": "bold"}
DETAIL: dict[str, Attribute] = {"fill": LIGHT.ink, "font-size": TEXT_SIZE}
COLOURS = {Flow.DOWN: LIGHT.down, Flow.UP: LIGHT.up}


def add_text(
    parent: ET.Element, text: str, at: Point, look: dict[str, Attribute], anchor: str = "middle", kinds: str = ""
) -> None:
    """``text`` with the middle of its line at the height of ``at``."""
    size = float(look["font-size"])
    where: dict[str, Attribute] = {"x": at[0], "y": at[1] + BASELINE * size, "text-anchor": anchor}
    add(parent, "text", {**where, **look}, text, kinds)


def add_box(parent: ET.Element, item: Item, problem: Problem, top: float) -> None:
    """A problem: its name in bold, and below it what else is known."""
    group = add(parent, "g", {}, kinds="node")
    add(group, "title", {}, node_tooltip(problem))
    corner = {"x": item.x - item.left, "y": top, "width": item.left + item.right, "height": item.height}
    add(group, "rect", {**corner, **BOX})
    y = top + PADDING_Y
    for text in name_lines(problem.name):
        add_text(group, text, (item.x, y + NAME_LINE / 2), NAME)
        y += NAME_LINE
    for text in node_details(problem):
        add_text(group, text, (item.x, y + TEXT_LINE / 2), DETAIL)
        y += TEXT_LINE


def add_line(parent: ET.Element, line: Line) -> None:
    """An arrow and its words."""
    flow, words = line.arrow.flow, line.arrow.lines
    group = add(parent, "g", {}, kinds=f"edge {flow}")
    add(group, "title", {}, line.arrow.tooltip)
    _add_arrow(group, flow, line.path, line.head)
    x = line.words[0] + (-LABEL_GAP if line.on_left else LABEL_GAP)
    y = line.words[1] - (len(words) - 1) * TEXT_LINE / 2
    look: dict[str, Attribute] = {"fill": COLOURS[flow], "font-size": TEXT_SIZE}
    for index, text in enumerate(words):
        add_text(group, text, (x, y + index * TEXT_LINE), look, "end" if line.on_left else "start")


def _add_arrow(group: ET.Element, flow: Flow, path: str, head: tuple[Point, Point, Point]) -> None:
    stroke: dict[str, Attribute] = {"stroke": COLOURS[flow], "stroke-width": "1.5"}
    dashes: dict[str, Attribute] = {"stroke-dasharray": DASHES} if flow is Flow.DOWN else {}
    add(group, "path", {"d": path, "fill": "none", **stroke, **dashes})
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in head)
    inside = "none" if flow is Flow.DOWN else COLOURS[flow]
    add(group, "polygon", {"points": corners, "fill": inside, "stroke-linejoin": "round", **stroke})


def legend_width() -> float:
    return sum(_entry_width(texts) for _, texts in LEGEND) + LEGEND_SPACE * (len(LEGEND) - 1)


def _entry_width(texts: tuple[str, ...]) -> float:
    return LEGEND_ARROW + LABEL_GAP + max(width(text, TEXT_SIZE) for text in texts)


def add_legend(parent: ET.Element, x: float, top: float) -> None:
    """What the two kinds of arrow mean, side by side, two lines of text high."""
    look: dict[str, Attribute] = {"fill": LIGHT.muted, "font-size": TEXT_SIZE}
    for flow, texts in LEGEND:
        group = add(parent, "g", {}, kinds=f"legend {flow}")
        middle, end = top + TEXT_LINE, x + LEGEND_ARROW
        base = end - HEAD_LENGTH
        head = ((end, middle), (base, middle - HEAD_WIDTH / 2), (base, middle + HEAD_WIDTH / 2))
        _add_arrow(group, flow, f"M{x:.1f} {middle:.1f}H{base:.1f}", head)
        for index, text in enumerate(texts):
            add_text(group, text, (end + LABEL_GAP, top + TEXT_LINE * (index + 0.5)), look, "start")
        x += _entry_width(texts) + LEGEND_SPACE
