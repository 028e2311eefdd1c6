"""The parts of the explanation that golden files do not show: measurements, odd names, numbers, plain data."""

from __future__ import annotations

import json

import pytest

from betty.ir.compile import Compiled, compile_graph
from betty.ir.explain import Measured, explain
from betty.ir.graph import Graph, Problem
from betty.ir.plan import Plan
from betty.ir.quantities import amount, both, bytes_text, flops_text, plural, three_digits, time_text
from betty.ir.summary import summary
from tests.ir.programs import DARTS, PROGRAMS, edge

WITH_MEASUREMENTS = """\
plan learning-to-reweight   2 problems · 1 edge · fp32 · cpu
repeat 1000
  problem          when        what                                    size           work         memory   time     peak     share
  classifier       every step  batch -> loss -> backward -> SGD        0.27 M params  3 MFLOP      1.13 MB  2.5 ms   1.2 MB   50%
    draw                       keeps the last 1                                                             0.5 ms   0 B      10%
    differentiate                                                                     3 MFLOP      1.13 MB  2 ms     1.2 MB   40%
    update                                                                                                  -        -        -
  weigher          every step  batch -> loss -> hypergradient -> Adam  64 params      6 MFLOP      1.18 MB  12.5 ms  2.25 MB  50%
    draw                                                                                                    -        -        -
    differentiate                                                                     3 MFLOP      50.3 KB  -        -        -
    adjoint        classifier  ∂L_weigher/∂classifier
    respond        classifier  identity + forward                                     ≈ 1.0 steps  1.18 MB  12.5 ms  2.25 MB  50%
                               (auto: lower of 270,000 parameters; exact products for about one step)
                               (runner-up: identity + finite_difference: lower of 270,000 parameters; first-order cost and memory)
    into           weigher
    update                                                                                                  -        -        -
"""  # noqa: E501 - a table is as wide as it is


def compiled(name: str) -> Compiled:
    return compile_graph(PROGRAMS[name])


def test_measurements_stand_beside_the_estimates() -> None:
    program = compiled("two_level")
    measured = {
        ("classifier", 0): Measured(seconds=0.0005, bytes=0, calls=100),
        ("classifier", 1): Measured(seconds=0.002, bytes=1_200_000, calls=100),
        ("weigher", 2): Measured(seconds=0.0125, bytes=2_250_000, calls=20),
    }
    assert explain(program.plan, program.graph, measured) + "\n" == WITH_MEASUREMENTS


def test_a_profile_without_calls_is_shown_as_such() -> None:
    program = compiled("two_level")
    text = explain(program.plan, program.graph, {})
    assert "share" in text
    assert "%" not in text


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_graph_adds_sizes_and_unused_edges_alone(name: str) -> None:
    program = compiled(name)
    without = explain(program.plan)
    assert "params" not in without
    assert "unused" not in without
    with_graph = explain(program.plan, program.graph)
    assert _words(without) == [line for line in _words(with_graph) if not line.startswith("unused")]


def _words(text: str) -> list[str]:
    """Lines without sizes and alignment."""
    words = (" ".join(line.split()) for line in text.splitlines())
    return [" ".join(part for part in _sizeless(line.split(" "))) for line in words]


PRECISIONS = {"fp32", "bf16", "fp16", "fp64"}


def _sizeless(words: list[str]) -> list[str]:
    if "params" not in words:
        return words
    end = words.index("params")
    start = end - 2 if words[end - 1] in {"k", "M"} else end - 1
    return words[:start] + [word for word in words[end + 1 :] if word not in PRECISIONS]


def test_names_with_line_breaks_stay_on_their_line() -> None:
    problems = (Problem(name="one\ntwo", optimizer="SGD"), Problem(name="top", optimizer="SGD"))
    program = compile_graph(Graph("g\n", problems, (edge("top", "one\ntwo", method=DARTS),)))
    lines = explain(program.plan, program.graph).splitlines()
    assert lines[0] == 'plan "g\\n"   2 problems · 1 edge · fp32 · cpu'
    assert len(lines) == 8
    assert '∂L_top/∂"one\\ntwo"' in lines[5]


def test_an_empty_plan() -> None:
    assert explain(Plan(name="p")).splitlines()[:2] == ["plan p   0 problems · 0 edges · fp32 · cpu", "repeat 1"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_summary_is_json_and_complete(name: str) -> None:
    program = compiled(name)
    found = json.loads(json.dumps(summary(program.plan, program.graph)))
    steps = program.plan.steps
    assert found["order"] == [step.problem for step in steps]
    assert [one["every"] for one in found["steps"]] == [step.period for step in steps]
    ops = [[item["op"] for item in one["instructions"]] for one in found["steps"]]
    assert ops == [[item.op for item in step.instructions] for step in steps]
    last = program.plan.then
    assert [item["op"] for item in (found["then"] or {"instructions": ()})["instructions"]] == [
        item.op for item in (last.instructions if last else ())
    ]
    for declared, one in zip(program.graph.edges, found["edges"], strict=True):
        method = declared.method or declared.valuation
        assert method is not None
        assert (one["upper"], one["lower"], one["flow"]) == (declared.upper, declared.lower, declared.flow)
        assert (one["method"], one["reason"]) == (method.to_text(), declared.reason)
        assert one["chosen"] == ("auto" if declared.reason else "spec")
        assert one["solver"] == {"name": method.solver.name, "options": dict(method.solver.options)}
    for problem, one in zip(program.graph.problems, found["problems"], strict=True):
        assert (one["level"], one["period"]) == (problem.level, problem.period)
        assert (one["facts"] or {}).get("parameters") == (problem.facts.parameters if problem.facts else None)


def test_the_summary_holds_the_estimates() -> None:
    program = compiled("two_level")
    respond = summary(program.plan, program.graph)["steps"][1]["instructions"][2]
    estimate = program.plan.step("weigher").responses[0].estimate
    assert estimate is not None
    assert (respond["work"], respond["memory"]) == (estimate.flops, estimate.bytes)
    untraced = compiled("up_chain")
    assert summary(untraced.plan, untraced.graph)["steps"][0]["instructions"][1]["work"] is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (amount(None), "?"),
        (amount(0), "0"),
        (amount(999), "999"),
        (amount(4_160), "4.16 k"),
        (amount(99_999), "100 k"),
        (amount(270_000), "0.27 M"),
        (amount(999_999_999), "1000 M"),
        (amount(1_300_000_000), "1.3 G"),
        (amount(2 * 10**12), "2 T"),
        (flops_text(64), "64 FLOP"),
        (flops_text(0), "0 FLOP"),
        (flops_text(1_200_000), "1.2 MFLOP"),
        (bytes_text(512), "512 B"),
        (bytes_text(4_100_000), "4.1 MB"),
        (bytes_text(999_999), "1000 KB"),
        (bytes_text(1_500_000_000), "1.5 GB"),
        (time_text(0.0125), "12.5 ms"),
        (time_text(2.5), "2500 ms"),
        (time_text(0.0), "0 ms"),
        (three_digits(0.001234), "0.00123"),
        (plural(1, "edge"), "1 edge"),
        (plural(2, "micro-batch"), "2 micro-batches"),
        (both(["a"]), "a"),
        (both(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_and_words(found: str, expected: str) -> None:
    assert found == expected
