"""What a ``training_step`` really reads: found by differentiating it once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from betty.backends.torch.objective import Sample
from betty.backends.torch.program import Program
from betty.backends.torch.random import replaying
from betty.ir.diagnostics import Diagnostic, GraphError, listing
from betty.ir.graph import Graph
from betty.problems.problem import Problem


@dataclass(frozen=True)
class Reading:
    """What one problem's loss depends on.

    Args:
        problems: Problems with a parameter that the loss depends on, its own name included.
        unused: Names of the problem's own trained parameters that the loss does not depend on.
    """

    problems: frozenset[str]
    unused: tuple[str, ...]


def reading(program: Program, name: str, batch: Any) -> Reading:
    """Evaluate the loss of a problem on ``batch``, purely, and differentiate it by all parameters of the program."""
    objective, problems = program[name].objective, program.problems
    by = {other: problem.parameters for other, problem in problems.items() if problem.parameters}
    flat = tuple(leaf for tree in by.values() for leaf in tree)
    with replaying(None, program.device), objective.holding({}, buffers=True), torch.enable_grad():
        loss = objective.checked(objective.held(Sample(batch).batch).loss, lenient=True).loss
        if not loss.requires_grad:
            return Reading(frozenset(), tuple(program[name].parameter_names))
        found = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    used = {other: [next(found) is not None for _ in tree] for other, tree in by.items()}
    own = zip(program[name].parameter_names, used.get(name, ()), strict=False)
    return Reading(
        frozenset(other for other, flags in used.items() if any(flags)),
        tuple(parameter for parameter, flag in own if not flag),
    )


def review(graph: Graph, problem: Problem, found: Reading) -> None:
    """Compare what a loss reads with the dependencies, after the problem's first step.

    What leaves a problem without a gradient is a warning, as a program may mean it: its loss may read another problem
    in some steps only.

    Raises:
        GraphError: Parameters are not used, and ``allow_unused`` is off.
    """
    name = problem.name
    if wrong := _unused(problem, found):
        raise GraphError(wrong)
    for one in [*_ignored_uppers(graph, name, found), *_motionless(graph, name, found)]:
        warnings.warn(one.to_text(), stacklevel=2)
    for other in sorted(found.problems - {name, *graph.reads(name)}):
        warnings.warn(
            f"the loss of {name!r} depends on {other!r}, which the dependencies do not tell: "
            f"{_missing(graph, name, other)}",
            stacklevel=2,
        )


def _missing(graph: Graph, name: str, other: str) -> str:
    if graph.edge(other, name):
        return f"u2l has no entry {{{other}: [{name}]}}, so that {other} gets no hypergradient through {name}"
    if graph.edge(name, other):
        return f"l2u has no entry {{{other}: [{name}]}}"
    return f"neither u2l={{{other}: [{name}]}} nor l2u={{{other}: [{name}]}} is there"


def _ignored_uppers(graph: Graph, name: str, found: Reading) -> list[Diagnostic]:
    return [
        Diagnostic(
            code="ignored-upper",
            field=("dependencies", "u2l"),
            message=f"the loss of {name!r} does not depend on {edge.upper!r}, so that {edge.upper!r} would never move "
            "by what it does to it",
            expected=f"a training_step of {name} that computes with the parameters of {edge.upper}, not detached",
            hint=f"remove {name} from u2l[{edge.upper}] if that is meant",
        )
        for edge in graph.edges
        if edge.lower == name and edge.flow.down and edge.upper not in found.problems
    ]


def _motionless(graph: Graph, name: str, found: Reading) -> list[Diagnostic]:
    """A problem whose loss does not depend on it, and that acts on no lower."""
    acts = any(edge.upper == name and edge.flow.down for edge in graph.edges)
    if acts or name in found.problems or not graph.problem(name).optimizer:
        return []
    lowers = [edge.lower for edge in graph.edges if edge.upper == name]
    hint = f'dependencies["u2l"]: {{{name}: [{lowers[0]}]}}' if lowers else ""
    return [
        Diagnostic(
            code="motionless",
            field=("dependencies", "u2l"),
            message=f"{name!r} would never move: its loss does not depend on its own parameters, "
            "and u2l names no problem whose loss does",
            expected="an entry in u2l for the problems that read it",
            hint=hint,
        )
    ]


def _unused(problem: Problem, found: Reading) -> list[Diagnostic]:
    if problem.config.allow_unused or not found.unused:
        return []
    return [
        Diagnostic(
            code="unused-parameters",
            field=(),
            message=f"the loss of {problem.name!r} does not use {listing(found.unused)}, and allow_unused is False",
            expected="a loss that uses every trainable parameter",
            hint="Config(allow_unused=True)",
        )
    ]


def first_order_diagnostics(graph: Graph, problems: Mapping[str, Problem]) -> list[Diagnostic]:
    """Problems that ask for no response of their lowers: ``first_order=False`` leaves them without a hypergradient."""
    return [
        Diagnostic(
            code="first-order",
            field=("dependencies", "u2l"),
            message=f"first_order=False computes no response of {edge.lower!r}: {edge.upper!r} would never move by it",
            expected="first_order=True, the default",
            hint=f"Config(first_order=True) for {edge.upper}",
        )
        for edge in graph.edges
        if edge.flow.down and not problems[edge.upper].config.first_order
    ]
