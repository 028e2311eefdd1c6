"""What the pass ``check`` says, word by word."""

from __future__ import annotations

import pytest

from betty.ir.diagnostics import GraphError
from betty.ir.passes.check import Check, diagnose
from betty.ir.text import parse_graph

CASES = {
    "cycle of three": (
        """
        problem free
        problem a
        problem b
        problem c
        edge b -> a
        edge c -> b
        edge a -> c
        """,
        """
        edges[2]: lower-to-upper flows form a cycle: a -> b -> c -> a
          expected  every problem strictly below its uppers
          try       remove one of these edges, or swap its upper and lower
        """,
    ),
    "two cycles": (
        """
        problem a
        problem b
        problem c
        problem d
        edge a -> b
        edge b -> a
        edge c -> d
        edge d -> c
        """,
        """
        edges[0]: lower-to-upper flows form a cycle: a -> b -> a
          expected  every problem strictly below its uppers
          try       remove one of these edges, or swap its upper and lower

        edges[2]: lower-to-upper flows form a cycle: c -> d -> c
          expected  every problem strictly below its uppers
          try       remove one of these edges, or swap its upper and lower
        """,
    ),
    "upper does not read": (
        """
        problem low reads=[low, top]
        problem top reads=[top] loss="program:top_loss"
        edge top -> low flow=both
        """,
        """
        edges[0].flow: flow 'both' lets 'top' read 'low', but its loss (program:top_loss) does not
          expected  a parameter named low in that loss
          try       flow: down
        """,
    ),
    "lower does not read": (
        """
        problem low reads=[low]
        problem top reads=[low]
        edge top -> low flow=both
        """,
        """
        edges[0].flow: flow 'both' lets 'low' read 'top', but its loss does not
          expected  a parameter named top in that loss
          try       flow: up
        """,
    ),
    "nobody reads": (
        """
        problem low reads=[low]
        problem top reads=[top]
        edge top -> low flow=up
        """,
        """
        edges[0].flow: flow 'up' lets 'top' read 'low', but its loss does not
          expected  a parameter named low in that loss
          try       remove the edge top -> low
        """,
    ),
    "reads without a flow": (
        """
        problem low reads=[low, top]
        problem top reads=[low] loss="program:top_loss"
        edge top -> low flow=down
        """,
        """
        problems.top.loss: the loss of 'top' (program:top_loss) reads 'low', but no flow brings it
          expected  an edge for every problem that a loss reads
          try       flow: both on the edge top -> low

        edges[0].flow: 'top' acts on 'low', but no solution answers: \
nothing that depends on 'low' is read by the loss of 'top'
          expected  flow: both, or up flows that lead from low to top
          try       flow: both
        """,
    ),
    "reads without an edge": (
        """
        problem low
        problem top reads=[low]
        """,
        """
        problems.top.loss: the loss of 'top' reads 'low', but no flow brings it
          expected  an edge for every problem that a loss reads
          try       edges: - {upper: top, lower: low, flow: up}, or {upper: low, lower: top, flow: down}
        """,
    ),
    "lower reads back without a flow": (
        """
        problem low reads=[top]
        problem top
        edge top -> low flow=up
        """,
        """
        problems.low.loss: the loss of 'low' reads 'top', but no flow brings it
          expected  an edge for every problem that a loss reads
          try       flow: both on the edge top -> low
        """,
    ),
    "unanswered through another": (
        """
        problem low
        problem mid
        problem top
        edge mid -> low flow=up
        edge top -> low flow=down
        """,
        """
        edges[1].flow: 'top' acts on 'low', but no solution answers: \
nothing that depends on 'low' is read by the loss of 'top'
          expected  flow: both, or up flows that lead from low to top
          try       flow: both
        """,
    ),
}
LEGAL = {
    "nothing": "",
    "answered through another": """
        problem low
        problem mid
        problem top
        edge mid -> low flow=up
        edge top -> mid flow=up
        edge top -> low flow=down
        """,
    "one level": "problem a reads=[a]",
    "unknown reads": "problem low\nproblem top\nedge top -> low",
    "reads of names that are no problem": "problem a reads=[a, elsewhere]",
    "only up": "problem low reads=[low]\nproblem top reads=[low]\nedge top -> low flow=up",
}


def unindented(block: str) -> str:
    return "\n".join(line[8:] for line in block.strip("\n").split("\n")).rstrip()


@pytest.mark.parametrize("case", CASES)
def test_diagnostics(case: str) -> None:
    body, expected = CASES[case]
    found = diagnose(parse_graph(f"graph g\n{body}"))
    assert "\n\n".join(one.to_text() for one in found) == unindented(expected)


@pytest.mark.parametrize("case", LEGAL)
def test_what_is_legal(case: str) -> None:
    graph = parse_graph(f"graph g\n{LEGAL[case]}")
    assert diagnose(graph) == []
    assert Check().apply(graph) is graph


def test_codes_name_the_kind_of_mistake() -> None:
    codes = {case: [one.code for one in diagnose(parse_graph(f"graph g\n{CASES[case][0]}"))] for case in CASES}
    assert codes["cycle of three"] == ["cycle"]
    assert codes["nobody reads"] == ["unread-flow"]
    assert codes["reads without a flow"] == ["undeclared-read", "unanswered-upper"]


def test_all_mistakes_come_in_one_report() -> None:
    with pytest.raises(GraphError) as caught:
        Check().apply(parse_graph(f"graph g\n{CASES['two cycles'][0]}"))
    text = str(caught.value)
    assert text.count("GraphError: edges[") == 2
    assert text.endswith("\n\n2 errors")
