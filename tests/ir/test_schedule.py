"""Periods and the order of steps against a simulation of the rule itself."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given

from betty.ir.compile import compile_graph
from betty.ir.graph import Graph
from betty.ir.passes.levels import Levels
from betty.ir.passes.schedule import Schedule, order
from tests.ir.programs import PROGRAMS
from tests.ir.strategies import programs

ITERATIONS = 60


def simulated(graph: Graph) -> list[tuple[int, str]]:
    """(iteration, problem) of all steps: an upper steps when each lower has completed its unroll since its last one."""
    needs = {problem.name: problem.unroll * problem.accumulation for problem in graph.problems}
    since: dict[str, Counter[str]] = {problem.name: Counter() for problem in graph.problems}
    stepped: list[tuple[int, str]] = []
    for iteration in range(1, ITERATIONS + 1):
        waiting = list(reversed(graph.problems))  # the rule alone, whatever order the problems are asked in
        while ready := next((one for one in waiting if _ready(graph, one.name, since, needs)), None):
            waiting.remove(ready)
            since[ready.name].clear()
            stepped.append((iteration, ready.name))
            for upper in graph.uppers(ready.name):
                since[upper][ready.name] += 1
    return stepped


def _ready(graph: Graph, name: str, since: dict[str, Counter[str]], needs: dict[str, int]) -> bool:
    return all(since[name][lower] >= needs[lower] for lower in graph.lowers(name))


def scheduled(graph: Graph) -> Graph:
    return Schedule().apply(Levels().apply(graph))


@given(graph=programs(most=6, unroll=3))
def test_periods_are_those_of_the_rule(graph: Graph) -> None:
    stepped = simulated(graph)
    for problem in scheduled(graph).problems:
        assert problem.period is not None
        expected = range(problem.period, ITERATIONS + 1, problem.period)
        assert [iteration for iteration, name in stepped if name == problem.name] == [*expected]


@given(graph=programs(unroll=3))
def test_every_problem_follows_its_lowers(graph: Graph) -> None:
    found = order(scheduled(graph))
    assert sorted(found) == sorted(problem.name for problem in graph.problems)
    assert all(found.index(edge.lower) < found.index(edge.upper) for edge in graph.edges)
    assert [name for name in found if name in graph.leaves] == [*graph.leaves]


@pytest.mark.parametrize("name", PROGRAMS)
def test_plans_step_as_the_rule_says(name: str) -> None:
    plan = compile_graph(PROGRAMS[name]).plan
    steps = {(i, step.problem) for i in range(1, ITERATIONS + 1) for step in plan if i % step.period == 0}
    assert steps == set(simulated(PROGRAMS[name].trained))


def test_an_upper_steps_as_soon_as_its_last_lower_is_done() -> None:
    assert order(PROGRAMS["diamond"]) == ("b0", "left0", "right0", "b1", "top")
    assert order(PROGRAMS["paced"]) == ("inner loop", "other", "outer", "score")
