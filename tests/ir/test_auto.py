"""Each rule of ``auto`` has a lower that it decides, and gives its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from betty.ir.graph import Edge, Graph, Problem
from betty.ir.methods import preset
from betty.ir.passes.methods import (
    DIFFERENTIABLE_OPTIMIZERS,
    RULES,
    SHORT_UNROLL,
    SMALL_LOWER,
    UNROLL_BYTES,
    ChooseMethods,
)
from betty.ir.records import Facts

SMALL, LARGE = Facts(parameters=SMALL_LOWER), Facts(parameters=SMALL_LOWER + 1)
UNKNOWN = "size of the lower unknown; first-order cost in any case"
FIRST_ORDER = "lower of 20,001 parameters; first-order cost and memory"

# A lower, the number of the rule that decides, and what it says.
CASES: dict[str, tuple[Problem, int, str]] = {
    "not traced": (Problem(name="low"), 0, UNKNOWN),
    "traced in vain": (Problem(name="low", facts=Facts(note="no shapes")), 0, UNKNOWN),
    "once differentiable": (
        Problem(name="low", facts=replace(SMALL, twice=False)),
        1,
        "the lower's loss cannot be differentiated twice",
    ),
    "few updates": (
        Problem(name="low", facts=LARGE, optimizer="Adam", unroll=SHORT_UNROLL),
        2,
        "20 Adam updates are few enough to differentiate",
    ),
    "many updates": (Problem(name="low", facts=LARGE, optimizer="Adam", unroll=SHORT_UNROLL + 1), 4, FIRST_ORDER),
    "many updates of a small lower": (
        Problem(name="low", facts=SMALL, optimizer="SGD", unroll=SHORT_UNROLL + 1),
        3,
        "21 updates bring the lower near its solution, and 20,000 parameters are few enough to solve for",
    ),
    "one update of a small lower": (
        Problem(name="low", facts=SMALL, optimizer="SGD"),
        4,
        "lower of 20,000 parameters; first-order cost and memory",
    ),
    "large activations": (
        Problem(
            name="low",
            facts=replace(LARGE, saved_bytes=UNROLL_BYTES // 8 + 1),
            optimizer="SGD",
            unroll=4,
            accumulation=2,
        ),
        4,
        FIRST_ORDER,
    ),
    "activations that just fit": (
        Problem(
            name="low", facts=replace(LARGE, saved_bytes=UNROLL_BYTES // 8), optimizer="SGD", unroll=4, accumulation=2
        ),
        2,
        "4 SGD updates are few enough to differentiate",
    ),
    "optimizer without a differentiable form": (
        Problem(name="low", facts=LARGE, optimizer="LBFGS", unroll=4),
        4,
        FIRST_ORDER,
    ),
    "large": (Problem(name="low", facts=LARGE, optimizer="SGD"), 4, FIRST_ORDER),
}


def chosen(lower: Problem, edge: Edge) -> Edge:
    return ChooseMethods().apply(Graph("g", (lower, Problem(name="top")), (edge,))).edges[0]


@pytest.mark.parametrize("case", CASES)
def test_rules(case: str) -> None:
    lower, number, reason = CASES[case]
    edge = chosen(lower, Edge(upper="top", lower="low"))
    assert next(index for index, rule in enumerate(RULES) if rule.holds(lower)) == number
    assert (edge.method, edge.reason) == (preset(RULES[number].method), reason)


def test_every_rule_has_a_case() -> None:
    assert {number for _, number, _ in CASES.values()} == set(range(len(RULES)))


@pytest.mark.parametrize("optimizer", DIFFERENTIABLE_OPTIMIZERS)
def test_optimizers_that_can_be_differentiated(optimizer: str) -> None:
    lower = Problem(name="low", facts=LARGE, optimizer=optimizer, unroll=2)
    assert chosen(lower, Edge(upper="top", lower="low")).method == preset("unrolled")


@pytest.mark.parametrize("case", CASES)
def test_a_method_that_was_chosen_stays(case: str) -> None:
    edge = Edge(upper="top", lower="low", method=preset("neumann", {"iterations": 3}))
    assert chosen(CASES[case][0], edge) is edge
