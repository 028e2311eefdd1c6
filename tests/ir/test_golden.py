"""Graph text, plan text and explanation of every program, word by word."""

from __future__ import annotations

import subprocess
import sys

import pytest

from betty.ir.compile import compile_graph
from betty.ir.explain import explain
from betty.ir.text import graph_to_text, parse_graph, parse_plan, plan_to_text
from tests.ir.golden import FOLDER, check_golden
from tests.ir.programs import PROGRAMS

SEEDED = "from tests.ir.test_golden import plans; print(plans(), end='')"


def plans() -> str:
    return "".join(plan_to_text(compile_graph(graph).plan) for graph in PROGRAMS.values())


@pytest.mark.parametrize("name", PROGRAMS)
def test_graph(name: str) -> None:
    compiled = compile_graph(PROGRAMS[name])
    check_golden(f"{name}.graph", graph_to_text(PROGRAMS[name]) + "\n" + graph_to_text(compiled.graph))


@pytest.mark.parametrize("name", PROGRAMS)
def test_plan(name: str) -> None:
    check_golden(f"{name}.plan", plan_to_text(compile_graph(PROGRAMS[name]).plan))


@pytest.mark.parametrize("name", PROGRAMS)
def test_explain(name: str) -> None:
    compiled = compile_graph(PROGRAMS[name])
    check_golden(f"{name}.explain", explain(compiled.plan, compiled.graph) + "\n")


@pytest.mark.parametrize("name", PROGRAMS)
def test_golden_text_parses_to_the_program(name: str) -> None:
    declared, resolved = (FOLDER / f"{name}.graph.txt").read_text(encoding="utf-8").split("\n\n")
    compiled = compile_graph(parse_graph(declared))
    assert parse_graph(declared) == PROGRAMS[name]
    assert parse_graph(resolved) == compiled.graph
    assert parse_plan((FOLDER / f"{name}.plan.txt").read_text(encoding="utf-8")) == compiled.plan


def test_no_golden_file_is_left_over() -> None:
    wanted = {f"{name}.{kind}.txt" for name in PROGRAMS for kind in ("graph", "plan", "explain")}
    assert {path.name for path in FOLDER.iterdir()} == wanted


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_plans_are_the_same_in_every_process(seed: str) -> None:
    """Strings hash differently in each process, so an order that comes out of a set would show here."""
    done = subprocess.run(
        [sys.executable, "-c", SEEDED],
        env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONIOENCODING": "utf-8"},
        cwd=FOLDER.parents[2],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout == plans()
