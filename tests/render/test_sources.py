"""DOT and Mermaid source: golden text for a small program, awkward names, what Graphviz makes of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable

import pytest

from betty.ir.graph import Graph
from betty.render import to_dot, to_mermaid
from betty.render.words import LEGEND
from tests.render.programs import NAMES, PROGRAMS, awkward, diamond, four_levels, ring, two_levels

MERMAID = """\
---
title: "hyper-cleaning"
---
flowchart TB
    p1["<b>weigher</b><br/>level 1 · Adam<br/>1 param"]
    p0["<b>classifier</b><br/>level 0 · Adam<br/>0.27 M params"]
    p1 -.->|"down"| p0
    p0 ==>|"up<br/>identity · finite_difference (auto)"| p1
    subgraph legend
        direction LR
        down_from[" "] -.-> down_text["down: the lower#39;s loss<br/>reads the upper#39;s parameters"]
        up_from[" "] ==> up_text["up: the upper#39;s loss<br/>reads the lower#39;s solution"]
    end
"""

programs = pytest.mark.parametrize("program", PROGRAMS, ids=NAMES)


def test_mermaid_of_two_levels() -> None:
    assert to_mermaid(two_levels()) == MERMAID


@programs
def test_mermaid_has_an_arrow_for_each_flow(program: Callable[[], Graph]) -> None:
    graph, text = program(), to_mermaid(program())
    assert text.count(" -.->|") == sum(edge.flow.down for edge in graph.edges)
    assert text.count(" ==>|") == sum(edge.flow.up for edge in graph.edges)
    assert len(re.findall(r"^    p\d+\[", text, re.MULTILINE)) == len(graph.problems)


def test_mermaid_is_led_downwards_by_an_invisible_link_where_only_solutions_rise() -> None:
    text = to_mermaid(diamond())
    assert "    p3 ~~~ p1\n    p1 ==>|" in text
    assert text.count("~~~") == 1


def test_mermaid_texts_cannot_end_their_quotes() -> None:
    body = to_mermaid(awkward()).partition("flowchart TB")[2]
    outside, quoted = body.split('"')[0::2], body.split('"')[1::2]
    assert not set("".join(outside)) & set("&#`\\{}'")
    assert len(quoted) == len(outside) - 1 > 0
    for text in quoted:
        rest = re.sub(r"</?b>|<br/>|#\d+;", "", text)
        assert not set(rest) & set('"<>&#`\\[]{}|')


def test_mermaid_front_matter_quotes_the_name() -> None:
    assert to_mermaid(awkward()).splitlines()[1] == r'title: "<svg> & \"co\" \\N"'


@programs
def test_dot_source_is_understood(program: Callable[[], Graph]) -> None:
    graph = program()
    plain = dot(to_dot(graph), "plain")
    named = [line.split()[1] for line in plain.splitlines() if line.startswith("node p")]
    assert sorted(named) == sorted(f"p{index}" for index in range(len(graph.problems)))
    between = [line for line in plain.splitlines() if line.startswith("edge p")]
    invisible = 2 if graph.problems else 0
    assert len(between) - invisible == sum(edge.flow.down + edge.flow.up for edge in graph.edges)


def test_levels_share_a_row_in_dot() -> None:
    rows = [line.split() for line in dot(to_dot(diamond()), "plain").splitlines() if line.startswith("node p")]
    height = {row[1]: float(row[3]) for row in rows}
    assert height["p3"] > height["p1"] == height["p2"] > height["p0"]


def test_flows_differ_in_dot_by_line_and_arrowhead() -> None:
    lines = [line for line in to_dot(two_levels()).splitlines() if "p1 -> p0" in line]
    assert [bool(re.search("arrowhead=empty .*class=down", lines[0])), "arrowtail=normal" in lines[1]] == [True, True]
    source = to_dot(two_levels())
    assert source.count("style=dashed") == source.count("style=solid") - len(LEGEND) * 2 == 2


def test_arrows_keep_their_direction_in_a_cycle() -> None:
    """``a`` is upper to ``b``, ``b`` to ``c`` and ``c`` to ``a``: one of the edges is drawn against the rows."""
    source = to_dot(ring())
    ends = re.findall(r"\t(p\d) -> (p\d) \[.*?(arrowhead|arrowtail)=(empty|normal) class=(down|up)", source)
    pointed = {(tail, head, kind) if side == "arrowhead" else (head, tail, kind) for tail, head, side, _, kind in ends}
    assert pointed == {("p0", "p1", "down"), ("p1", "p0", "up"), ("p2", "p1", "up"), ("p2", "p0", "down")}


def test_full_options_are_in_the_tooltip() -> None:
    assert "neumann(iterations=10, alpha=0.01, warm_start=false) + reverse" in to_dot(four_levels())


def dot(source: str, form: str) -> str:
    program = shutil.which("dot")
    if program is None:
        pytest.skip("Graphviz is not installed")
    done = subprocess.run([program, f"-T{form}"], input=source.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.decode()
