"""Methods: choose a method for every edge that asks for ``auto``, and say why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from betty.ir.graph import Edge, Graph, Problem
from betty.ir.methods import preset
from betty.ir.passes.base import Stage

SMALL_LOWER = 20_000
"""Parameters up to which a solve by conjugate gradients costs little beside the lower's own steps."""
SHORT_UNROLL = 20
"""Updates up to which the lower's trajectory is kept and differentiated. Beyond them the lower is taken to come near
its solution, where a linear solve means something; before, its Hessian may be indefinite."""
UNROLL_BYTES = 2**30
"""Saved activations that a kept trajectory may take."""
DIFFERENTIABLE_OPTIMIZERS = (
    *("SGD", "ASGD"),
    *("Adam", "AdamW", "NAdam", "RAdam", "Adamax"),
    *("RMSprop", "Adagrad", "Adadelta"),
    *("Adafactor", "Muon"),
)
"""Those whose update can be differentiated: all of torch.optim but Rprop, SparseAdam and LBFGS."""


@dataclass(frozen=True)
class Rule:
    """One line of the table of ``auto``: the first rule that holds decides."""

    method: str
    holds: Callable[[Problem], bool]
    reason: Callable[[Problem], str]


def _twice(lower: Problem) -> bool:
    return lower.facts is None or lower.facts.twice


def _keeps_trajectory(lower: Problem) -> bool:
    if lower.facts is None or lower.facts.note or not 2 <= lower.unroll <= SHORT_UNROLL:
        return False
    saved = lower.facts.saved_bytes * lower.unroll * lower.accumulation
    return lower.optimizer in DIFFERENTIABLE_OPTIMIZERS and saved <= UNROLL_BYTES


RULES: tuple[Rule, ...] = (
    Rule(
        "finite_difference",
        lambda lower: lower.facts is None or not lower.facts.parameters,
        lambda lower: "size of the lower unknown; first-order cost in any case",
    ),
    Rule(
        "finite_difference",
        lambda lower: not _twice(lower),
        lambda lower: "the lower's loss cannot be differentiated twice",
    ),
    Rule(
        "unrolled",
        _keeps_trajectory,
        lambda lower: f"{lower.unroll} {lower.optimizer} updates are few enough to differentiate",
    ),
    Rule(
        "cg",
        lambda lower: lower.unroll > SHORT_UNROLL and bool(lower.facts and lower.facts.parameters <= SMALL_LOWER),
        lambda lower: (
            f"{lower.unroll} updates bring the lower near its solution, "
            f"and {count(lower)} parameters are few enough to solve for"
        ),
    ),
    Rule(
        "finite_difference",
        lambda lower: True,
        lambda lower: f"lower of {count(lower)} parameters; first-order cost and memory",
    ),
)


@dataclass(frozen=True)
class ChooseMethods:
    """Resolve ``auto`` edge by edge from facts about the lower; the first rule of ``RULES`` that holds decides."""

    name: str = "methods"
    requires: Stage = Stage.SCHEDULED
    ensures: Stage = Stage.RESOLVED

    def apply(self, graph: Graph) -> Graph:
        def choose(edge: Edge) -> Edge:
            if edge.method is not None:
                return edge
            lower = graph.problem(edge.lower)
            rule = next(rule for rule in RULES if rule.holds(lower))
            return replace(edge, method=preset(rule.method), reason=rule.reason(lower))

        return graph.map(edge=choose)


def count(problem: Problem) -> str:
    return f"{problem.facts.parameters:,}" if problem.facts else "unknown"
