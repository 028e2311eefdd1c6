"""Each pass before and after, in textual IR; what holds of all passes; and the manager that runs them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given

from betty.ir.compile import PIPELINE, compile_graph
from betty.ir.diagnostics import GraphError, PlanError
from betty.ir.graph import Graph, Problem
from betty.ir.passes.base import Pass, Stage, run_passes
from betty.ir.passes.check import diagnose
from betty.ir.passes.lower import lower
from betty.ir.text import graph_to_text, parse_graph, plan_to_text
from betty.ir.verify import RULES, violations
from tests.ir.programs import PROGRAMS
from tests.ir.strategies import programs

DECLARED = """
    graph "g" iterations=1 device="cpu" precision="fp32" seed=0
      problem low reads=[low, mid] optimizer="SGD" unroll=4
        facts parameters=90000 saved_bytes=10
      problem mid optimizer="Adam" unroll=2 accumulation=3
        facts parameters=90 note="no shapes"
      problem top optimizer="Adam"
      edge mid -> low flow=both
      edge top -> mid flow=both method=cg(iterations=3, tolerance=1e-06, damping=0.0, precondition=false, warm_start=false) + reverse
"""  # noqa: E501
LEVELLED = """
    graph "g" iterations=1 device="cpu" precision="fp32" seed=0
      problem low reads=[low, mid] optimizer="SGD" unroll=4 level=0
        facts parameters=90000 saved_bytes=10
      problem mid optimizer="Adam" unroll=2 accumulation=3 level=1
        facts parameters=90 note="no shapes"
      problem top optimizer="Adam" level=2
      edge mid -> low flow=both
      edge top -> mid flow=both method=cg(iterations=3, tolerance=1e-06, damping=0.0, precondition=false, warm_start=false) + reverse
"""  # noqa: E501
SCHEDULED = """
    graph "g" iterations=1 device="cpu" precision="fp32" seed=0
      problem low reads=[low, mid] optimizer="SGD" unroll=4 level=0 period=1
        facts parameters=90000 saved_bytes=10
      problem mid optimizer="Adam" unroll=2 accumulation=3 level=1 period=4
        facts parameters=90 note="no shapes"
      problem top optimizer="Adam" level=2 period=24
      edge mid -> low flow=both
      edge top -> mid flow=both method=cg(iterations=3, tolerance=1e-06, damping=0.0, precondition=false, warm_start=false) + reverse
"""  # noqa: E501
RESOLVED = """
    graph "g" iterations=1 device="cpu" precision="fp32" seed=0
      problem low reads=[low, mid] optimizer="SGD" unroll=4 level=0 period=1
        facts parameters=90000 saved_bytes=10
      problem mid optimizer="Adam" unroll=2 accumulation=3 level=1 period=4
        facts parameters=90 note="no shapes"
      problem top optimizer="Adam" level=2 period=24
      edge mid -> low flow=both method=unrolled(steps=0, truncate=0, remat=false) reason="4 SGD updates are few enough to differentiate; runner-up unrolled(remat=true): 4 SGD updates, computed again a block at a time"
      edge top -> mid flow=both method=cg(iterations=3, tolerance=1e-06, damping=0.0, precondition=false, warm_start=false) + reverse
"""  # noqa: E501
PLAN = """
    plan "g" iterations=1 device="cpu" precision="fp32" seed=0 edges=2
      step low period=1 level=0
        %0 = draw
        %1 = differentiate flops=0 bytes=90
        %2 = update optimizer="SGD" tape=4
      step mid period=4 level=1
        %0 = draw keep=3
        %1 = differentiate adjoints=[low -> low]
        %2 = respond low slot=low method=unrolled(steps=4, truncate=0, remat=false) into=[mid] edge="mid -> low" reason="4 SGD updates are few enough to differentiate; runner-up unrolled(remat=true): 4 SGD updates, computed again a block at a time" flops=0 bytes=0
        %3 = update optimizer="Adam" every=3
      step top period=24 level=2
        %0 = draw
        %1 = differentiate adjoints=[mid -> mid]
        %2 = respond mid slot=mid method=cg(iterations=3, tolerance=1e-06, damping=0.0, precondition=false, warm_start=false) + reverse into=[top] edge="top -> mid"
        %3 = update optimizer="Adam"
"""  # noqa: E501 - an instruction is a line
BEFORE_AND_AFTER = {
    "check": (DECLARED, DECLARED),
    "levels": (DECLARED, LEVELLED),
    "schedule": (LEVELLED, SCHEDULED),
    "methods": (SCHEDULED, RESOLVED),
}
IDS = [step.name for step in PIPELINE]


def text(block: str) -> str:
    return dedent(block).lstrip("\n")


@pytest.mark.parametrize("step", PIPELINE, ids=IDS)
def test_before_and_after(step: Pass) -> None:
    before, after = map(text, BEFORE_AND_AFTER[step.name])
    assert graph_to_text(step.apply(parse_graph(before))) == after


def test_lowering_before_and_after() -> None:
    assert plan_to_text(lower(parse_graph(text(RESOLVED)))) == text(PLAN)


@pytest.mark.parametrize("step", PIPELINE, ids=IDS)
def test_a_pass_is_documented(step: Pass) -> None:
    page = Path(__file__).parents[2] / "docs" / "passes.md"
    assert f"### `{step.name}`\n" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_pass_leaves_a_legal_graph_and_changes_nothing_the_second_time(name: str) -> None:
    graph = PROGRAMS[name]
    for step in PIPELINE:
        graph = step.apply(graph)
        assert violations(graph, step.ensures) == []
        assert step.apply(graph) is graph


@given(graph=programs(unroll=3))
def test_passes_on_random_programs(graph: Graph) -> None:
    """The pass ``check`` stands aside: random flows may leave an upper unanswered."""
    for step in PIPELINE[1:]:
        graph = step.apply(graph)
        assert violations(graph, step.ensures) == []
        assert step.apply(graph) is graph


@given(graph=programs())
def test_checking_changes_nothing_or_reports(graph: Graph) -> None:
    if diagnose(graph):
        with pytest.raises(GraphError):
            compile_graph(graph)
    else:
        assert PIPELINE[0].apply(graph) is graph


def test_compiling_again_changes_nothing() -> None:
    for graph in PROGRAMS.values():
        once = compile_graph(graph)
        again = compile_graph(once.graph)
        assert again.graph is once.graph
        assert again.plan == once.plan
        assert [snapshot.changed for snapshot in again.trace] == [False] * len(PIPELINE)


def test_the_trace_names_each_pass_and_what_it_changed() -> None:
    trace = compile_graph(parse_graph(text(DECLARED))).trace
    assert [(one.after, one.changed) for one in trace] == [
        ("check", False),
        ("levels", True),
        ("schedule", True),
        ("methods", True),
    ]
    assert [graph_to_text(one.graph) for one in trace] == [*map(text, (DECLARED, LEVELLED, SCHEDULED, RESOLVED))]


@dataclass(frozen=True)
class Forgetful:
    """Claims levels, and gives none."""

    name: str = "forgetful"
    requires: Stage = Stage.CHECKED
    ensures: Stage = Stage.LEVELLED

    def apply(self, graph: Graph) -> Graph:
        return graph.map(problem=lambda one: replace(one, level=None))


def test_a_pass_before_its_stage_is_refused() -> None:
    with pytest.raises(PlanError) as caught:
        run_passes(PROGRAMS["two_level"], PIPELINE[1:])
    assert str(caught.value) == "PlanError: pass 'levels' needs a graph that is CHECKED, not DECLARED"


def test_a_pass_that_breaks_its_word_is_named() -> None:
    with pytest.raises(PlanError) as caught:
        run_passes(PROGRAMS["two_level"], (PIPELINE[0], Forgetful()))
    expected = "after pass 'forgetful': problem 'classifier' has no level; problem 'weigher' has no level"
    assert str(caught.value) == f"PlanError: {expected}"


def test_a_pass_that_breaks_an_earlier_promise_is_named() -> None:
    stages = (*PIPELINE, replace(Forgetful(), requires=Stage.RESOLVED, ensures=Stage.RESOLVED))
    with pytest.raises(PlanError, match="after pass 'forgetful': problem 'classifier' has no level"):
        run_passes(PROGRAMS["two_level"], stages)


def test_every_stage_has_its_rules() -> None:
    assert len(RULES) == len(Stage)


@pytest.mark.parametrize(
    ("body", "stage", "broken"),
    [
        ("edge a -> b\nedge b -> a", Stage.CHECKED, ["the hierarchy of problems has a cycle"]),
        ("", Stage.LEVELLED, ["problem 'c' has no level"]),
        ("edge b -> a", Stage.LEVELLED, ["problem 'c' has no level", "edge b -> a does not rise: levels 1 and 1"]),
        ("", Stage.SCHEDULED, ["problem 'c' has no level", "problem 'b' has no period", "problem 'c' has no period"]),
    ],
)
def test_broken_rules(body: str, stage: Stage, broken: list[str]) -> None:
    graph = parse_graph(f"graph g\nproblem a level=1 period=1\nproblem b level=1 period=0\nproblem c\n{body}")
    assert violations(graph, stage) == broken


def test_an_edge_without_a_method_is_not_resolved() -> None:
    graph = PROGRAMS["two_level"]
    levelled = graph.map(problem=lambda one: replace(one, level=graph.position(one.name), period=1))
    assert violations(levelled, Stage.RESOLVED) == ["edge weigher -> classifier has no method"]


def test_graphs_refuse_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="problem names must be unique"):
        Graph("g", (Problem(name="a"), Problem(name="a")))
