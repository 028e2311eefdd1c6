"""The built-in layout: nothing overlaps, no line runs through a problem or a label, and it scales."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import combinations

import pytest

from betty.ir.graph import Graph
from betty.ir.records import Flow
from betty.render import items, to_dot, to_mermaid, to_svg
from betty.render.items import TEXT_LINE, TEXT_SIZE, scene, width
from betty.render.order import crossings, order
from betty.render.ranks import ranks
from betty.render.tree import tag
from tests.render.programs import (
    NAMES,
    PROGRAMS,
    chain,
    diamond,
    edge,
    four_levels,
    problem,
    read_by_all,
    ring,
    tangle,
    two_levels,
)
from tests.render.svgs import Box, box, groups, inside, overlap, points, texts, title

drawn_programs = pytest.mark.parametrize("program", PROGRAMS, ids=NAMES)
Program = Callable[[], Graph]


def boxes(root: ET.Element) -> list[Box]:
    return [box(rect) for rect in root.iter(tag("rect"))]


def label_boxes(root: ET.Element) -> list[Box]:
    return [label_box(group) for group in groups(root, "edge")]


def label_box(group: ET.Element) -> Box:
    lines = group.findall(tag("text"))
    x, last = float(lines[0].get("x", "nan")), float(lines[-1].get("y", "nan"))
    wide = max(width(text, TEXT_SIZE) for text in texts(group))
    left = x - wide if lines[0].get("text-anchor") == "end" else x
    return left, float(lines[0].get("y", "nan")) - TEXT_SIZE * 0.7, left + wide, last + TEXT_SIZE * 0.2


@drawn_programs
def test_problems_and_labels_do_not_overlap(program: Program) -> None:
    root = ET.fromstring(to_svg(program()))
    assert not [pair for pair in combinations([*boxes(root), *label_boxes(root)], 2) if overlap(*pair)]


@drawn_programs
def test_no_line_runs_through_a_problem_or_a_label(program: Program) -> None:
    root = ET.fromstring(to_svg(program()))
    regions = [*boxes(root), *label_boxes(root)]
    paths = [group.findall(tag("path"))[0].get("d", "") for group in groups(root, "edge")]
    assert not [path for path in paths for at in points(path) for region in regions if inside(at, region)]


@drawn_programs
def test_everything_is_on_the_paper(program: Program) -> None:
    root = ET.fromstring(to_svg(program()))
    _, _, wide, high = map(float, root.get("viewBox", "").split())
    (body,) = (group for group in root.iter(tag("g")) if group.get("transform"))
    right, down = map(float, body.get("transform", "").removeprefix("translate(").removesuffix(")").split())
    found = [*boxes(root), *label_boxes(root)]
    assert all(left + right >= 0 and end + right <= wide for left, _, end, _ in found)
    assert all(top + down >= 0 and bottom + down <= high for _, top, _, bottom in found)


@drawn_programs
def test_text_fits_its_box(program: Program) -> None:
    for node in groups(ET.fromstring(to_svg(program())), "node"):
        (left, _, right, bottom), lines = box(node.findall(tag("rect"))[0]), node.findall(tag("text"))
        assert (
            max(width(text, float(line.get("font-size", "0"))) for text, line in zip(texts(node), lines, strict=True))
            < right - left
        )
        assert all(float(line.get("y", "nan")) < bottom for line in lines)


def test_levels_are_rows_and_uppers_stand_above() -> None:
    root = ET.fromstring(to_svg(diamond()))
    middle = {title(node).splitlines()[0]: _middle(node) for node in groups(root, "node")}
    assert middle["top"] < middle["left"] == middle["right"] < middle["base"]


def _middle(node: ET.Element) -> float:
    _, top, _, bottom = box(node.findall(tag("rect"))[0])
    return (top + bottom) / 2


def test_arrows_point_where_their_flow_goes() -> None:
    root = ET.fromstring(to_svg(two_levels()))
    upper, lower = sorted(boxes(root), key=lambda region: region[1])
    for flow, end in ((Flow.DOWN, lower[1]), (Flow.UP, upper[3])):
        (group,) = groups(root, "edge", flow)
        tip = group.findall(tag("polygon"))[0].get("points", "").split()[0]
        assert float(tip.split(",")[1]) == pytest.approx(end, abs=0.11)


def test_sweeps_untangle_what_can_be_untangled() -> None:
    names = [f"{row}{at}" for row in "ab" for at in range(6)]
    crossed = tuple(edge(f"b{5 - at}", f"a{at}") for at in range(6))
    graph = Graph(name="x", problems=tuple(problem(n, 0 if n[0] == "a" else 1) for n in names), edges=crossed)
    layout = scene(graph)
    layout.rows = [sorted(row, key=lambda item: item.problem_name) for row in layout.rows]
    before = crossings(layout.rows)
    order(layout)
    assert before > 0
    assert crossings(layout.rows) == 0


def test_ranks_are_levels_where_known_and_chains_elsewhere() -> None:
    assert ranks(four_levels()) == {"pretrain": 0, "finetune": 1, "reweight": 2, "meta": 3}
    unknown = diamond().map(problem=lambda old: problem(old.name, None))
    assert ranks(unknown) == {"base": 0, "left": 1, "right": 1, "top": 2}
    assert sorted(ranks(ring()).values()) == [0, 1, 2]
    flat = Graph(name="flat", problems=(problem("a", 3), problem("b", 3)), edges=(edge("a", "b"),))
    assert ranks(flat) == {"a": 1, "b": 0}


@drawn_programs
def test_equal_graphs_are_drawn_equally(program: Program) -> None:
    assert to_svg(program()) == to_svg(program())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("graph", [chain(1000), read_by_all(1000), tangle(20, 50)], ids=["chain", "tower", "tangle"])
def test_a_thousand_problems_are_drawn(graph: Graph) -> None:
    root = ET.fromstring(to_svg(graph))
    assert len(groups(root, "node")) == len(graph.problems) >= 1000
    assert len(groups(root, "edge")) == sum(item.flow.down + item.flow.up for item in graph.edges)
    assert to_dot(graph).count(" -> ") >= len(graph.edges)
    assert to_mermaid(graph).count("\n") > 1000


def test_strands_beside_the_drawing_avoid_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "MOST_BENDS", 200)
    root = ET.fromstring(to_svg(read_by_all(30)))
    regions = boxes(root)
    leftmost = min(region[0] for region in [*regions, *label_boxes(root)])
    ways = [list(points(group.findall(tag("path"))[0].get("d", ""), pieces=12)) for group in groups(root, "edge")]
    aside = [way for way in ways if min(x for x, _ in way) < leftmost]
    assert aside, "the longest strands run beside the drawing"
    assert not [at for way in aside for at in way for region in regions if inside(at, region)]


def test_lines_of_a_label_stand_apart() -> None:
    (group,) = groups(ET.fromstring(to_svg(two_levels())), "edge", "up")
    first, second = (float(text.get("y", "nan")) for text in group.findall(tag("text")))
    assert second - first == pytest.approx(TEXT_LINE, abs=0.11)
