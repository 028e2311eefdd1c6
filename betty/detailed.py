"""The plan with the memory that its losses were found to take: for people, and only when they ask for it."""

from __future__ import annotations

from dataclasses import replace

from betty.backends.torch.program import Program
from betty.backends.torch.random import RandomState, replaying
from betty.backends.torch.trace import facts
from betty.ir.compile import Compiled
from betty.ir.graph import Graph, Problem
from betty.ir.passes.lower import lower
from betty.ir.sharded import FSDP


def detailed(compiled: Compiled, program: Program, random: RandomState | None) -> Compiled:
    """The same methods in the same order, with estimates of memory from a trace of every derivative.

    It takes about as long as compiling does, and changes nothing that is run. Where a budget is set it has been made
    already, as methods are chosen by it.

    Args:
        compiled: The program.
        program: Its live problems; the next micro-batch of each is looked at.
        random: The state in which data that has not begun is begun.
    """
    graph = compiled.graph
    if graph.settings.memory is not None or graph.settings.strategy == FSDP:
        return compiled
    with replaying(random, program.device):
        measured = graph.map(problem=lambda one: _measured(one, graph, program))
    return replace(compiled, graph=measured, plan=lower(measured))


def _measured(problem: Problem, graph: Graph, program: Program) -> Problem:
    if problem.facts is None or problem.facts.note:
        return problem
    live = program[problem.name]
    methods = [edge.method for edge in graph.edges if edge.lower == problem.name and edge.flow.down]
    found = facts(
        program,
        live,
        live.stream.peek() if live.stream is not None else None,
        forward=any(one is not None and one.forward for one in methods),
        graph=any(one is not None and one.second_order for one in methods),
        memory=True,
    )
    return problem if found.note else replace(problem, facts=found)
