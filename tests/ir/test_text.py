"""Textual IR: what is written is read back, and what cannot be read is named by line and column."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given

from betty.ir.compile import compile_graph
from betty.ir.diagnostics import GraphError, PlanError, listing
from betty.ir.graph import Edge, Graph, Problem
from betty.ir.methods import INVERSES, UNPAIRED, preset
from betty.ir.plan import Plan
from betty.ir.text import PROBLEM, graph_to_text, parse_graph, parse_plan, plan_to_text
from tests.ir.programs import PROGRAMS
from tests.ir.strategies import graphs, plans


@given(graph=graphs())
def test_every_graph_is_read_back(graph: Graph) -> None:
    text = graph_to_text(graph)
    assert parse_graph(text) == graph
    assert graph_to_text(parse_graph(text)) == text


@given(plan=plans())
def test_every_plan_is_read_back(plan: Plan) -> None:
    text = plan_to_text(plan)
    assert parse_plan(text) == plan
    assert plan_to_text(parse_plan(text)) == text


@given(graph=graphs())
def test_one_line_for_every_record(graph: Graph) -> None:
    """Whatever names hold, so that a difference of two texts is a difference of records."""
    with_facts = sum((one.facts is not None) + (one.weights is not None) for one in graph.problems)
    assert len(graph_to_text(graph).splitlines()) == 1 + len(graph.problems) + with_facts + len(graph.edges)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_stage_is_read_back(name: str) -> None:
    for snapshot in compile_graph(PROGRAMS[name]).trace:
        assert parse_graph(graph_to_text(snapshot.graph)) == snapshot.graph


def test_comments_empty_lines_and_indentation_mean_nothing() -> None:
    text = '# a comment\n\n  graph "g"\nproblem b\n\n\t# another\n      problem a   level=1\n edge a->b   flow=up\n'
    expected = Graph("g", (Problem(name="b"), Problem(name="a", level=1)), (Edge(upper="a", lower="b"),))
    assert parse_graph(text.replace("flow=up", "flow=both")) == expected


def test_options_left_out_take_their_defaults() -> None:
    text = "graph g\n problem a\n problem b\n edge a -> b method=cg(damping=1) + reverse\n"
    assert parse_graph(text).edges[0].method == preset("cg", {"damping": 1.0})


@dataclass(frozen=True)
class Wrong:
    """A text, and what is said about it."""

    text: str
    message: str
    at: tuple[int, int]
    expected: str
    hint: str = ""

    def report(self, kind: str) -> str:
        rows = [f"{kind}: {self.message}", f"  where     line {self.at[0]}, column {self.at[1]}"]
        rows.append(f"  expected  {self.expected}")
        return "\n".join([*rows, *([f"  try       {self.hint}"] if self.hint else [])])


HEAD = "graph g\nproblem a\nproblem b\n"
GRAPHS = {
    "keyword": Wrong(
        HEAD + "problm c",
        "'problm' is not a line of a graph",
        at=(4, 1),
        expected="one of problem, facts, weights, edge",
        hint="problem",
    ),
    "head": Wrong("grph g", "'grph' is not the first line of a graph", at=(1, 1), expected="graph", hint="graph"),
    "nothing": Wrong("", "the end of the line is not the first line of a graph", at=(1, 1), expected="graph"),
    "setting": Wrong(
        "graph g iteration=3\n",
        "'iteration' is not a setting of a graph",
        at=(1, 9),
        expected="one of iterations, device, precision, seed, roll_back, strategy, local_adjoints, memory, compile, "
        "reason",
        hint="iterations",
    ),
    "field": Wrong(
        HEAD + '  problem c optimiser="SGD"',
        "'optimiser' is not a field of a problem",
        at=(4, 13),
        expected=f"one of {', '.join(PROBLEM)}",
        hint="optimizer",
    ),
    "twice": Wrong(
        HEAD + "problem c level=1 level=2", "'level' is given twice", at=(4, 24), expected="each field once"
    ),
    "type": Wrong(HEAD + "problem c unroll=true", "found true", at=(4, 18), expected="a whole number"),
    "value": Wrong(
        HEAD + "problem c loss=mse",
        "found 'mse'",
        at=(4, 16),
        expected="a JSON value: a quoted string, a number, true, false or null",
    ),
    "list": Wrong(HEAD + "problem c reads=[a b]", "found 'b'", at=(4, 20), expected="',' or ']'"),
    "name": Wrong(HEAD + "problem =", "found '='", at=(4, 9), expected="a name, quoted or bare"),
    "equals": Wrong(HEAD + "problem c level 1", "found '1'", at=(4, 17), expected="'='"),
    "same problem": Wrong(HEAD + "problem a", "a second problem 'a'", at=(4, 10), expected="a name for each problem"),
    "unknown problem": Wrong(
        HEAD + "problem finetune\nedge a -> finetun",
        "'finetun' is not a problem of this graph",
        at=(5, 11),
        expected="one of a, b, finetune",
        hint="finetune",
    ),
    "edge to itself": Wrong(
        HEAD + "edge a -> a", "edge a -> a", at=(4, 12), expected="two different problems, and one edge to a pair"
    ),
    "same edge": Wrong(
        HEAD + "edge a -> b\nedge a -> b",
        "edge a -> b",
        at=(5, 12),
        expected="two different problems, and one edge to a pair",
    ),
    "arrow": Wrong(HEAD + "edge a b", "found 'b'", at=(4, 8), expected="'->'"),
    "flow": Wrong(
        HEAD + "edge a -> b flow=dwn", "'dwn' is not a flow", at=(4, 18), expected="one of down, up, both", hint="down"
    ),
    "solver": Wrong(
        HEAD + "edge a -> b method=neuman + reverse",
        "'neuman' is not an inverse, a trajectory method or an estimator",
        at=(4, 20),
        expected=f"one of {listing([*INVERSES, *UNPAIRED])}",
        hint="neumann",
    ),
    "product": Wrong(HEAD + "edge a -> b method=cg", "found the end of the line", at=(4, 22), expected="'+'"),
    "option": Wrong(
        HEAD + "edge a -> b method=cg(iteration=3) + reverse",
        "'iteration' is not an option of cg",
        at=(4, 23),
        expected="one of iterations, tolerance, damping, precondition, warm_start",
        hint="iterations",
    ),
    "option type": Wrong(
        HEAD + "edge a -> b method=cg(iterations=1.5) + reverse",
        "found 1.5",
        at=(4, 34),
        expected="a value of type int",
    ),
    "facts": Wrong(
        "graph g\nfacts parameters=3", "nothing to add this line to", at=(2, 6), expected="a problem before its facts"
    ),
}
STEP = "plan p\nstep a\n"
PLANS = {
    "graph": Wrong(HEAD, "'graph' is not the first line of a plan", at=(1, 1), expected="plan"),
    "keyword": Wrong(
        STEP + "stp b", "'stp' is not a line of a plan", at=(3, 1), expected="one of step, then, peak", hint="step"
    ),
    "instruction": Wrong(
        STEP + "%0 = drew",
        "'drew' is not an instruction",
        at=(3, 6),
        expected="one of draw, differentiate, respond, update, fit, log, score",
        hint="draw",
    ),
    "field": Wrong(
        STEP + "%0 = draw kept=1",
        "'kept' is not a field of draw",
        at=(3, 11),
        expected="one of keep, flops, bytes, collectives, exchanged",
        hint="keep",
    ),
    "number": Wrong(
        STEP + "%0 = draw\n%2 = update", "found instruction %2", at=(4, 2), expected="%1, the next of this step"
    ),
    "lacking": Wrong(
        STEP + "%0 = respond b slot=b into=[a]", "respond lacks method", at=(3, 31), expected="method=..."
    ),
    "no step": Wrong(
        "plan p\n%0 = draw", "nothing to add this line to", at=(2, 2), expected="a step before its instructions"
    ),
    "same step": Wrong(STEP + "step a", "a second step of 'a'", at=(3, 7), expected="one step for each problem"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_what_is_no_graph(case: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse_graph(GRAPHS[case].text)
    assert str(caught.value) == GRAPHS[case].report("GraphError")


@pytest.mark.parametrize("case", PLANS)
def test_what_is_no_plan(case: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_plan(PLANS[case].text)
    assert str(caught.value) == PLANS[case].report("PlanError")


def complaint(text: str) -> str | None:
    try:
        parse_graph(text)
    except GraphError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", PROGRAMS)
def test_damaged_text_is_a_graph_or_one_located_error(name: str) -> None:
    """Cut off anywhere, or with any one character missing."""
    text = graph_to_text(compile_graph(PROGRAMS[name]).graph)
    ends = range(0, len(text), 3)
    damaged = [text[:end] + rest for end in ends for rest in ("", text[end + 1 :])]
    complaints = [found for found in map(complaint, damaged) if found is not None]
    assert len(complaints) > len(damaged) / 4
    assert all("where     line " in found for found in complaints)
