"""How several processes share the work, by what each is expected to hold."""

from __future__ import annotations

import pytest

from betty.ir.compile import compile_graph
from betty.ir.explain import explain
from betty.ir.graph import Edge, Graph, Problem, Settings
from betty.ir.methods import preset
from betty.ir.passes.strategy import fitting
from betty.ir.records import Facts

MB = 10**6
FACTS = Facts(parameters=MB, parameter_bytes=4 * MB, state_bytes=8 * MB, gradient_bytes=6 * MB, graph_bytes=9 * MB)
SMALL = Facts(parameters=10, parameter_bytes=40, state_bytes=80, gradient_bytes=100)


def program(method: str, memory: int | None) -> Graph:
    problems = (
        Problem(name="low", reads=("low", "top"), optimizer="Adam", facts=FACTS),
        Problem(name="top", reads=("top", "low"), optimizer="Adam", facts=SMALL),
    )
    edges = (Edge(upper="top", lower="low", method=preset(method)),)
    return Graph("g", problems, edges, Settings(memory=memory))


def expected(method: str) -> int:
    peak = compile_graph(program(method, None)).plan.peak
    assert peak is not None
    return peak.bytes


@pytest.mark.parametrize(
    ("method", "spared", "strategy"),
    [
        ("sama", 0, "ddp"),
        ("sama", 1 * MB, "zero"),  # half of the optimiser states is 4 MB
        ("sama", 5 * MB, "fsdp"),  # half of the parameters as well, 2 MB
        ("cg", 0, "ddp"),
        ("cg", 3 * MB, "zero"),
    ],
)
def test_the_fastest_that_fits(method: str, spared: int, strategy: str) -> None:
    chosen, reason = fitting(program(method, expected(method) - spared), 2)
    assert chosen == strategy
    assert bool(reason) == (strategy != "ddp")
    assert not reason or reason.startswith("ddp is expected to hold ")


def test_where_nothing_fits_the_smallest_is_taken_and_said_so() -> None:
    assert fitting(program("sama", MB), 4)[0] == "fsdp"
    chosen, reason = fitting(program("cg", MB), 4)
    assert chosen == "zero"
    assert reason.endswith("nothing fits")


def test_without_a_budget_it_is_ddp() -> None:
    assert fitting(program("cg", None), 2) == ("ddp", "")


def test_a_plan_that_holds_more_than_the_budget_says_what_would_help() -> None:
    compiled = compile_graph(program("sama", 10 * MB))
    text = explain(compiled.plan, compiled.graph)
    assert "more than the 10 MB allowed by engine.memory; less is held with activation_checkpointing" in text
    assert "allowed" not in explain(compile_graph(program("sama", 10**9)).plan)
