"""Each rule of ``auto`` has a lower that it decides, and gives its reason; what cannot answer is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from betty.ir.applicable import diagnose_methods, misfit
from betty.ir.graph import Edge, Graph, Problem, Settings
from betty.ir.methods import PRESETS, preset
from betty.ir.passes.methods import (
    DIFFERENTIABLE_OPTIMIZERS,
    RULES,
    SHORT_UNROLL,
    SMALL_LOWER,
    UNROLL_BYTES,
    Case,
    ChooseMethods,
)
from betty.ir.records import Facts

SMALL = Facts(parameters=SMALL_LOWER, parameter_bytes=4 * SMALL_LOWER)
LARGE = Facts(parameters=SMALL_LOWER + 1, parameter_bytes=4 * (SMALL_LOWER + 1))
NO_FORWARD: dict[str, Any] = {"forward": False}
ONCE: dict[str, Any] = {"twice": False, "forward": False}
UNTRACED = "its loss could not be traced, and first derivatives do in any case"
EXACT = "; exact products for about one step"
SGD_LARGE = "identity + forward: lower of 20,001 parameters" + EXACT
FIT = UNROLL_BYTES // 17 - LARGE.parameter_bytes


def lower(facts: Facts | None, optimizer: str = "SGD", unroll: int = 1, accumulation: int = 1) -> Problem:
    return Problem(name="low", facts=facts, optimizer=optimizer, unroll=unroll, accumulation=accumulation)


# A lower, the method that is chosen, and the reason with the runner-up.
CASES: dict[str, tuple[Problem, str, str]] = {
    "not traced": (lower(None), "identity + finite_difference", f"lower of unknown size; {UNTRACED}"),
    "traced in vain": (
        lower(replace(SMALL, note="no shapes"), unroll=5),
        "identity + finite_difference",
        f"lower of 20,000 parameters; {UNTRACED}",
    ),
    "traced in vain, adaptive": (
        lower(Facts(parameters=7, note="no shapes"), "Adam"),
        "sama + finite_difference",
        (
            f"lower of 7 parameters, adapted to Adam; {UNTRACED}; "
            f"runner-up identity + finite_difference: lower of 7 parameters; {UNTRACED}"
        ),
    ),
    "once differentiable": (
        lower(replace(SMALL, **ONCE), unroll=5),
        "identity + finite_difference",
        "lower of 20,000 parameters; its loss cannot be differentiated twice",
    ),
    "not in forward mode": (
        lower(replace(LARGE, **NO_FORWARD), "RMSprop"),
        "sama + finite_difference",
        (
            "lower of 20,001 parameters, adapted to RMSprop; its loss cannot be differentiated in forward mode; "
            "runner-up identity + finite_difference: lower of 20,001 parameters; "
            "its loss cannot be differentiated in forward mode"
        ),
    ),
    "few updates": (
        lower(LARGE, "Adam", unroll=SHORT_UNROLL),
        "unrolled",
        (
            "20 Adam updates are few enough to differentiate; runner-up unrolled(remat=true): "
            "20 Adam updates, computed again a block at a time"
        ),
    ),
    "few updates of many activations": (
        lower(replace(LARGE, saved_bytes=FIT + 1), unroll=4, accumulation=2),
        "unrolled(remat=true)",
        f"4 SGD updates, computed again a block at a time; runner-up {SGD_LARGE}",
    ),
    "activations that just fit": (
        lower(replace(LARGE, saved_bytes=FIT), unroll=4, accumulation=2),
        "unrolled",
        (
            "4 SGD updates are few enough to differentiate; runner-up unrolled(remat=true): "
            "4 SGD updates, computed again a block at a time"
        ),
    ),
    "activations that fit in no way": (
        lower(replace(LARGE, saved_bytes=UNROLL_BYTES), unroll=4),
        "identity + forward",
        (
            f"lower of 20,001 parameters{EXACT}; "
            "runner-up identity + finite_difference: lower of 20,001 parameters; first-order cost and memory"
        ),
    ),
    "many updates": (
        lower(LARGE, "Adam", unroll=SHORT_UNROLL + 1),
        "sama + forward",
        (
            f"lower of 20,001 parameters, adapted to Adam{EXACT}; runner-up sama + finite_difference: "
            "lower of 20,001 parameters, adapted to Adam; first-order cost and memory"
        ),
    ),
    "many updates of a small lower": (
        lower(SMALL, unroll=SHORT_UNROLL + 1),
        "cg + reverse",
        (
            "21 updates bring the lower near its solution, and 20,000 parameters are few enough to solve for; "
            f"runner-up identity + forward: lower of 20,000 parameters{EXACT}"
        ),
    ),
    "optimizer without a differentiable form": (
        lower(LARGE, "LBFGS", unroll=4),
        "identity + forward",
        (
            f"lower of 20,001 parameters{EXACT}; "
            "runner-up identity + finite_difference: lower of 20,001 parameters; first-order cost and memory"
        ),
    ),
}


def program(problem: Problem, edge: Edge, **settings: Any) -> Graph:
    return Graph("g", (problem, Problem(name="top")), (edge,), Settings(**settings))


def chosen(problem: Problem, edge: Edge, **settings: Any) -> Edge:
    return ChooseMethods().apply(program(problem, edge, **settings)).edges[0]


@pytest.mark.parametrize("case", CASES)
def test_rules(case: str) -> None:
    problem, method, reason = CASES[case]
    edge = chosen(problem, Edge(upper="top", lower="low"))
    assert edge.method is not None
    assert (edge.method.brief(), edge.reason) == (method, reason)


def test_every_rule_decides_a_case() -> None:
    cases = [Case(program(problem, Edge(upper="top", lower="low")), problem) for problem, _, _ in CASES.values()]
    deciding = {next(i for i, rule in enumerate(RULES) if rule.holds(case)) for case in cases}
    assert deciding == set(range(len(RULES)))


UP_LOW = Edge(upper="top", lower="low")
ACTIVE = replace(LARGE, saved_bytes=10**6)
"""Two times 80 KB of parameters and gradients, 1 MB of activations."""


@pytest.mark.parametrize(
    ("memory", "method"),
    [
        (None, "unrolled"),
        (10**8, "unrolled"),
        (11 * 10**6, "unrolled(remat=true)"),
        (5 * 10**6, "identity + forward"),
        (2 * 10**6, "identity + finite_difference"),
    ],
)
def test_the_memory_budget_is_obeyed(memory: int | None, method: str) -> None:
    edge = chosen(lower(ACTIVE, unroll=8), UP_LOW, memory=memory)
    assert edge.method is not None and edge.method.brief() == method
    assert "nothing fits" not in edge.reason


def test_a_budget_that_nothing_fits_in_is_named() -> None:
    edge = chosen(lower(ACTIVE, unroll=8), UP_LOW, memory=10**6)
    assert edge.method == preset("finite_difference")
    assert edge.reason.endswith("; nothing fits in the 840 KB that the memory budget leaves")


def test_other_problems_take_of_the_budget() -> None:
    large = Problem(name="top", facts=Facts(parameters=10**6, parameter_bytes=4 * 10**6, state_bytes=8 * 10**6))
    for memory, name in ((10**8, "unrolled"), (27 * 10**6, "unrolled(remat=true)")):
        graph = Graph("g", (lower(ACTIVE, unroll=8), large), (UP_LOW,), Settings(memory=memory))
        method = ChooseMethods().apply(graph).edges[0].method
        assert method is not None and method.brief() == name


def test_several_processes_do_not_solve() -> None:
    many = lower(SMALL, unroll=SHORT_UNROLL + 1)
    for strategy, name in (("single", "cg + reverse"), ("distributed", "identity + forward")):
        method = chosen(many, UP_LOW, strategy=strategy).method
        assert method is not None and method.brief() == name
    assert chosen(lower(LARGE, unroll=3), UP_LOW, strategy="distributed").method == preset("unrolled")


@pytest.mark.parametrize("optimizer", DIFFERENTIABLE_OPTIMIZERS)
def test_optimizers_that_can_be_differentiated(optimizer: str) -> None:
    assert chosen(lower(LARGE, optimizer, unroll=2), Edge(upper="top", lower="low")).method == preset("unrolled")


@pytest.mark.parametrize("case", CASES)
def test_a_method_that_was_chosen_stays(case: str) -> None:
    edge = Edge(upper="top", lower="low", method=preset("neumann", {"iterations": 3}))
    assert chosen(CASES[case][0], edge) is edge


@pytest.mark.parametrize("case", CASES)
def test_what_is_chosen_can_answer(case: str) -> None:
    problem = CASES[case][0]
    method = chosen(problem, Edge(upper="top", lower="low")).method
    assert method is not None
    assert misfit(method, problem) is None


UNFIT: dict[str, tuple[Problem, dict[str, Any], str]] = {
    "sama": (lower(LARGE, "Rprop"), {}, "'sama' needs the optimiser's adaptation"),
    "dense": (lower(LARGE), {}, "the Hessian of 'low' has 20,001 rows, more than the limit of 5,000"),
    "cg": (lower(replace(LARGE, **ONCE)), {}, "'reverse' differentiates the loss of 'low' twice"),
    "unrolled": (lower(replace(LARGE, **ONCE)), {}, "'unrolled' differentiates the loss of 'low' twice"),
    "identity": (lower(replace(LARGE, **NO_FORWARD)), {}, "has no derivative in forward mode"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_method_that_cannot_answer_is_refused_with_the_reason(name: str) -> None:
    problem, options, message = UNFIT[name]
    graph = Graph("g", (problem, Problem(name="top")), (Edge(upper="top", lower="low", method=preset(name, options)),))
    (found,) = diagnose_methods(graph)
    assert message in found.message
    assert found.field == ("edges", 0, "method")
    assert found.expected
    assert found.hint


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"dense"}))
def test_every_method_fits_a_smooth_lower(name: str) -> None:
    assert misfit(preset(name), lower(LARGE, "Adam")) is None
    assert misfit(preset("cg", {"precondition": True}), lower(LARGE, "Rprop")) is not None
    assert misfit(preset("cg"), lower(LARGE, "Rprop")) is None
