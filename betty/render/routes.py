"""The lines of the built-in layout: smooth between rows, straight through them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from betty.ir.records import Flow
from betty.render.items import LANE, PADDING_X, PORT, Item, Scene, Strand
from betty.render.place import Band
from betty.render.words import Arrow

HEAD_LENGTH, HEAD_WIDTH = 10.0, 8.0
RAIL = 2 * LANE + 6.0
"""Distance between two strands that run beside the drawing."""

Point = tuple[float, float]
Stop = tuple[float, float, float]
"""A vertical piece of a line: ``x``, upper end, lower end."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One arrow on paper: an SVG path, the triangle of its head, and where its words stand."""

    arrow: Arrow
    path: str
    head: tuple[Point, Point, Point]
    words: Point
    on_left: bool


def lines(scene: Scene, bands: list[Band]) -> list[Line]:
    """Every arrow of every strand, in the order of the edges. Boxes of one row are centred in its band."""
    ports = _ports(scene)
    left = min((item.x - item.left for row in scene.rows for item in row), default=0.0)
    rails = iter(left - RAIL * (index + 1) for index in range(len(scene.strands)))
    return [
        _line(strand, arrow, stops, bands)
        for strand in scene.strands
        for stops in [_stops(strand, ports, bands, rails_x=next(rails) if strand.aside else 0.0)]
        for arrow in strand.arrows
    ]


def _ports(scene: Scene) -> dict[tuple[Item, Strand], float]:
    """Where a strand meets the box of a problem: side by side, in the order of the next items, so that none cross."""
    meeting: dict[tuple[Item, bool], list[tuple[float, int, Strand]]] = {}
    for index, strand in enumerate(scene.strands):
        first, last = strand.items[0], strand.items[-1]
        meeting.setdefault((first, False), []).append((strand.items[1].x, index, strand))
        meeting.setdefault((last, True), []).append((strand.items[-2].x, index, strand))
    return {
        (box, strand): box.x + (place - (len(met) - 1) / 2) * _spacing(box, len(met))
        for (box, _), met in meeting.items()
        for place, (_, _, strand) in enumerate(sorted(met, key=lambda entry: entry[:2]))
    }


def _spacing(box: Item, count: int) -> float:
    return min(2 * PORT, (2 * box.right - 2 * PADDING_X) / max(count, 1))


def _stops(strand: Strand, ports: dict[tuple[Item, Strand], float], bands: list[Band], rails_x: float) -> list[Stop]:
    """The vertical pieces of a strand, from its higher end; between them it bends."""
    high, *inner, low = strand.items
    pieces = [(item.x, bands[item.row].top, bands[item.row].bottom) for item in inner]
    if strand.aside:
        pieces.append((rails_x, bands[inner[0].row + 1].top, bands[low.row - 1].bottom))
    start, end = edge_of(high, bands, bottom=True), edge_of(low, bands, bottom=False)
    # The box may be lower than its band: the line goes straight down to the end of the band before it bends.
    head = (ports[high, strand], start, bands[high.row].bottom)
    return [head, *pieces, (ports[low, strand], bands[low.row].top, end)]


def edge_of(box: Item, bands: list[Band], bottom: bool) -> float:
    """The upper or lower edge of a problem's box."""
    return bands[box.row].middle + (box.height / 2 if bottom else -box.height / 2)


def _line(strand: Strand, arrow: Arrow, stops: list[Stop], bands: list[Band]) -> Line:
    shift = 0.0 if len(strand.arrows) == 1 else -LANE if arrow.flow is Flow.DOWN else LANE
    stops = [(x + shift, top, bottom) for x, top, bottom in stops]
    points_down = (arrow.flow is Flow.DOWN) == (strand.items[0].problem_name == strand.edge.upper)
    return Line(
        arrow=arrow,
        path=_path(_shortened(stops, points_down), shift),
        head=_head(stops[-1][0], stops[-1][2], -1.0) if points_down else _head(stops[0][0], stops[0][1], 1.0),
        words=(strand.label.x + shift, bands[strand.label.row].middle),
        on_left=shift < 0,
    )


def _head(x: float, tip: float, back: float) -> tuple[Point, Point, Point]:
    base = tip + back * HEAD_LENGTH
    return (x, tip), (x - HEAD_WIDTH / 2, base), (x + HEAD_WIDTH / 2, base)


def _shortened(stops: list[Stop], points_down: bool) -> list[Stop]:
    """The same with room for a head at both ends, so that two arrows of an edge bend alike.

    At its own head a line ends where the head begins: inside a hollow head it would show.
    """
    (first, top, start), *inner, (last, end, bottom) = stops
    start, end = max(start, top + HEAD_LENGTH), min(end, bottom - HEAD_LENGTH)
    top, bottom = (top, bottom - HEAD_LENGTH) if points_down else (top + HEAD_LENGTH, bottom)
    return [(first, top, start), *inner, (last, end, bottom)]


def _path(stops: list[Stop], shift: float) -> str:
    x, top, bottom = stops[0]
    steps = [f"M{x:.1f} {top:.1f}", f"V{bottom:.1f}" if bottom > top else ""]
    for (x0, _, y0), (x, top, bottom) in pairwise(stops):
        # The outer arrow of a pair bends later, which keeps their distance; both bends stay between the rows.
        most = min(LANE, (top - y0) / 5)
        middle = (y0 + top) / 2 - max(-most, min(most, 0.02 * shift * (x - x0)))
        bend = f"C{x0:.1f} {middle:.1f} {x:.1f} {middle:.1f} {x:.1f} {top:.1f}"
        steps.append(f"V{top:.1f}" if abs(x0 - x) < 0.05 else bend)
        steps.append(f"V{bottom:.1f}" if bottom > top else "")
    return "".join(steps)
