"""Graphs to draw, as they are after all passes; levels are written by hand."""

from __future__ import annotations

from itertools import pairwise

from betty.ir.graph import Edge, Graph, Problem
from betty.ir.methods import Method, preset
from betty.ir.records import Facts, Flow

AWKWARD = ("<b>&amp;", "a \"quoted\" 'name'", "back\\slash \\N \\l", "]]> --> %%", "naïve 模型 \N{ROCKET}", "bell\a")
"""Names that mean something to XML, DOT, Mermaid or a terminal."""


def problem(name: str, level: int | None, parameters: int | None = None, *, unroll: int = 1) -> Problem:
    facts = None if parameters is None else Facts(parameters=parameters)
    return Problem(name=name, level=level, optimizer="Adam", facts=facts, unroll=unroll, loss=f"{name}_loss")


def edge(upper: str, lower: str, flow: Flow = Flow.BOTH, method: str | Method | None = "cg", reason: str = "") -> Edge:
    chosen = preset(method) if isinstance(method, str) else method
    return Edge(upper=upper, lower=lower, flow=flow, method=chosen, reason=reason)


def two_levels() -> Graph:
    problems = (problem("classifier", 0, 270_000), problem("weigher", 1, 1))
    joined = edge("weigher", "classifier", method="finite_difference", reason="large lower")
    return Graph(name="hyper-cleaning", problems=problems, edges=(joined,))


def four_levels() -> Graph:
    """A chain of four with two edges that skip levels, all flows and several methods."""
    problems = (
        problem("pretrain", 0, 110_000_000, unroll=5),
        problem("finetune", 1, 110_000_000, unroll=2),
        problem("reweight", 2, 40_301),
        problem("meta", 3, 1),
    )
    edges = (
        edge("reweight", "finetune", reason="large lower"),
        edge("finetune", "pretrain", method="neumann"),
        edge("reweight", "pretrain", Flow.DOWN, "finite_difference"),
        edge("meta", "reweight", method=preset("unrolled", {"steps": 3})),
        edge("meta", "pretrain", Flow.UP, None),
    )
    return Graph(name="four-levels", problems=problems, edges=edges)


def diamond() -> Graph:
    problems = (problem("base", 0), problem("left", 1), problem("right", 1, unroll=10), problem("top", 2))
    edges = (edge("left", "base"), edge("right", "base"), edge("top", "left", Flow.UP), edge("top", "right"))
    return Graph(name="diamond", problems=problems, edges=edges)


def awkward() -> Graph:
    """A chain of problems with awkward names, in a program with one of its own."""
    problems = tuple(problem(name, level) for level, name in enumerate(AWKWARD))
    edges = tuple(edge(upper, lower) for lower, upper in pairwise(AWKWARD))
    return Graph(name='<svg> & "co" \\N', problems=problems, edges=edges)


def ring() -> Graph:
    """A cycle, as only a graph has that was never checked."""
    problems = tuple(problem(name, None) for name in "abc")
    return Graph(
        name="ring", problems=problems, edges=(edge("a", "b"), edge("b", "c", Flow.UP), edge("c", "a", Flow.DOWN))
    )


def chain(length: int) -> Graph:
    problems = tuple(problem(f"p{level}", level) for level in range(length))
    return Graph(name="chain", problems=problems, edges=tuple(edge(f"p{k + 1}", f"p{k}") for k in range(length - 1)))


def read_by_all(length: int) -> Graph:
    """A chain with a problem above it that every other problem reads: strands far too long to route row by row."""
    below = chain(length)
    edges = tuple(edge("top", item.name, Flow.DOWN) for item in below.problems)
    return Graph(name="tower", problems=(*below.problems, problem("top", length)), edges=(*below.edges, *edges))


def tangle(rows: int, width: int) -> Graph:
    """Rows of problems, each with three lowers spread over the rows below it, one of them far away."""
    name = "problem_{}_{}".format
    problems = tuple(problem(name(row, at), row, 1000) for row in range(rows) for at in range(width))
    pairs = {
        (name(row, at), name(below, (at * 7 + 3 * row + below) % width))
        for row in range(1, rows)
        for at in range(width)
        for below in {row - 1, row // 2, 0}
    }
    flows = (Flow.BOTH, Flow.DOWN, Flow.UP)
    edges = tuple(edge(u, low, flows[index % 3]) for index, (u, low) in enumerate(sorted(pairs)))
    return Graph(name="tangle", problems=problems, edges=edges)


PROGRAMS = (two_levels, four_levels, diamond, awkward, ring, lambda: tangle(5, 3), lambda: Graph(name="empty"))
NAMES = ("two", "four", "diamond", "awkward", "ring", "tangle", "empty")
