"""Programs of a thousand problems, and what importing the compiler's middle costs."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from betty.ir.compile import compile_graph
from betty.ir.explain import explain
from betty.ir.graph import Graph
from betty.ir.text import graph_to_text, parse_graph, parse_plan, plan_to_text
from tests.ir.programs import BOTH, CG, DOWN, UP, chain, diamonds, edge

IMPORT_ALL = """
import importlib, pkgutil, sys
import betty.ir
for module in pkgutil.walk_packages(betty.ir.__path__, "betty.ir."):
    importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "pydantic", "yaml", "typer", "rich"}))
"""


def all_both(length: int) -> Graph:
    return chain(length, BOTH)


def acting_on_the_bottom(length: int) -> Graph:
    graph = chain(length, UP)
    return Graph(graph.name, graph.problems, (*graph.edges, edge(f"p{length - 1}", "p0", DOWN, CG)))


# The number of responses in all, for a program of n problems.
SHAPES = {
    "all both": (all_both(1000), 999),
    "up, and the top acts on the bottom": (acting_on_the_bottom(1000), 999),
    "diamonds": (diamonds(333), 3 * 333 + 1),
    "every problem above one": (
        Graph("hub", chain(1000, BOTH).problems, tuple(edge(f"p{n}", "p0", method=CG) for n in range(1, 1000))),
        999,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thousand_problems_compile(shape: str) -> None:
    graph, responses = SHAPES[shape]
    start = time.perf_counter()
    compiled = compile_graph(graph)
    print(f"{shape}: compiled in {time.perf_counter() - start:.2f} s")
    assert sum(len(step.responses) for step in compiled.plan) == responses
    assert parse_plan(plan_to_text(compiled.plan)) == compiled.plan
    assert parse_graph(graph_to_text(compiled.graph)) == compiled.graph
    assert len(explain(compiled.plan, compiled.graph).splitlines()) > 2 * responses


def test_importing_the_ir_imports_neither_torch_nor_pydantic() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
