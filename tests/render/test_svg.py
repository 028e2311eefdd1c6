"""Every SVG, whichever program laid it out: what it shows, how it tells flows apart, that it suits any page."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from betty.ir.graph import Graph
from betty.render import svg, to_svg
from betty.render.dot import BACKSLASH
from betty.render.style import DARK, FONTS, LIGHT, Palette, css
from betty.render.tree import tag
from betty.render.words import clean, headline, name_lines
from tests.render.programs import AWKWARD, NAMES, PROGRAMS, four_levels, two_levels
from tests.render.svgs import groups, texts, title

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
DRAWN_BY = [pytest.param(to_svg, id="built-in"), pytest.param(svg, id="dot", marks=needs_dot)]
Draw = Callable[[Graph], str]

pytestmark = pytest.mark.parametrize("draw", DRAWN_BY)


@pytest.mark.parametrize("program", PROGRAMS, ids=NAMES)
def test_every_problem_and_every_flow_is_drawn_once(draw: Draw, program: Callable[[], Graph]) -> None:
    graph = program()
    root = ET.fromstring(draw(graph))
    drawn = sorted(title(node).splitlines()[0].replace(BACKSLASH, "\\") for node in groups(root, "node"))
    assert drawn == sorted(clean(problem.name) for problem in graph.problems)
    assert len(groups(root, "edge", "down")) == sum(edge.flow.down for edge in graph.edges)
    assert len(groups(root, "edge", "up")) == sum(edge.flow.up for edge in graph.edges)


def test_a_node_says_what_is_known(draw: Draw) -> None:
    nodes = groups(ET.fromstring(draw(two_levels())), "node")
    shown = {texts(node)[0]: texts(node)[1:] for node in nodes}
    assert shown == {
        "classifier": ["level 0 · Adam", "0.27 M params"],
        "weigher": ["level 1 · Adam", "1 param"],
    }


def test_labels_stand_on_their_arrows(draw: Draw) -> None:
    root = ET.fromstring(draw(four_levels()))
    down = sorted(texts(group) for group in groups(root, "edge", "down"))
    up = sorted(texts(group) for group in groups(root, "edge", "up"))
    assert down == [["down"], ["down"], ["down"], ["down", "identity · finite_difference", "unroll 5"]]
    assert up == [
        ["up", "auto", "unroll 5"],
        ["up", "cg · reverse (auto)", "unroll 2"],
        ["up", "neumann · reverse", "unroll 5"],
        ["up", "unrolled · 3 steps"],
    ]


def test_hovering_shows_all_options_and_the_reason(draw: Draw) -> None:
    (group,) = groups(ET.fromstring(draw(two_levels())), "edge", "up")
    assert title(group) == (
        "up: the loss of weigher reads the solution of classifier\n"
        "method: identity + finite_difference(epsilon=0.01, multitask=false)\n"
        "chosen automatically: large lower\n"
        "unroll: 1"
    )


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_names_are_shown_as_they_are(draw: Draw, name: str) -> None:
    graph = Graph(name=name, problems=(two_levels().problems[0],))
    graph = graph.map(problem=lambda problem: type(problem)(name=name, level=0))
    root = ET.fromstring(draw(graph).replace(BACKSLASH, "\\"))
    (node,) = groups(root, "node")
    assert texts(node) == [*name_lines(name), "level 0"]
    assert title(node) == clean(name)
    (heading,) = (text for text in root.iter(tag("text")) if text.get("class") == "heading")
    assert heading.text == clean(name)


def test_flows_differ_without_colour(draw: Draw) -> None:
    root = ET.fromstring(draw(two_levels()))
    for kind in ("edge", "legend"):
        (down,) = (group for group in groups(root, kind, "down") if group.find(tag("path")) is not None)
        (up,) = (group for group in groups(root, kind, "up") if group.find(tag("path")) is not None)
        assert _paths(down)[0].get("stroke-dasharray")
        assert not _paths(up)[0].get("stroke-dasharray")
        assert _heads(down)[0].get("fill") == "none"
        assert _heads(up)[0].get("fill") == LIGHT.up


def _paths(group: ET.Element) -> list[ET.Element]:
    return group.findall(tag("path"))


def _heads(group: ET.Element) -> list[ET.Element]:
    return group.findall(tag("polygon"))


def test_the_legend_explains_both_arrows(draw: Draw) -> None:
    root = ET.fromstring(draw(two_levels()))
    said = [text for group in groups(root, "legend") for text in texts(group)]
    assert sorted(said) == [
        "down: the lower's loss",
        "reads the lower's solution",
        "reads the upper's parameters",
        "up: the upper's loss",
    ]


def test_it_is_fit_for_any_page(draw: Draw) -> None:
    graph = two_levels()
    text = draw(graph)
    root = ET.fromstring(text)
    assert root.get("class") == "betty-graph"
    assert (root.get("role"), root.get("aria-label")) == ("img", "hyper-cleaning: 2 problems, 1 edge")
    assert root.findtext(tag("title")) == headline(graph)
    assert root.findtext(tag("style")) == css()
    assert not [element for element in root.iter() if element.get("id")], "identifiers clash between drawings"
    assert not re.search(r"fill=\"(white|transparent)\"", text), "the background must stay the page's"
    assert "<a " not in text


def test_the_style_sheet_knows_the_dark(draw: Draw) -> None:
    style = ET.fromstring(draw(two_levels())).findtext(tag("style"), "")
    plain, _, dark = style.partition("@media (prefers-color-scheme: dark)")
    assert FONTS in plain
    assert all(colour in plain for colour in _colours(LIGHT))
    assert all(colour in dark for colour in _colours(DARK))
    rules = re.findall(r"([^{}]+)\{[^{}]*\}", style.replace("@media (prefers-color-scheme: dark){", ""))
    assert all(".betty-graph" in one for rule in rules for one in rule.strip(" \n}").split(",")), "rules must not leak"


def _colours(palette: Palette) -> list[str]:
    return [palette.ink, palette.muted, palette.fill, palette.line, palette.down, palette.up]
