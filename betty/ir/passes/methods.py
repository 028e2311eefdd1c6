"""Methods: choose a method for every edge that asks for ``auto``, and say why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from betty.ir.graph import Edge, Graph, Problem
from betty.ir.methods import INVERSES, PRODUCTS, Method, complete, preset
from betty.ir.passes.base import Stage

SMALL_LOWER = 20_000
"""Parameters up to which a solve by conjugate gradients costs little beside the lower's own steps."""
SHORT_UNROLL = 20
"""Updates up to which the lower's trajectory is kept and differentiated. Beyond them the lower is taken to come near
its solution, where a linear solve means something; before, its Hessian may be indefinite."""
UNROLL_BYTES = 2**30
"""Saved activations and parameters that the updates of a trajectory may take."""
DIFFERENTIABLE_OPTIMIZERS = (
    *("SGD", "ASGD"),
    *("Adam", "AdamW", "NAdam", "RAdam", "Adamax"),
    *("RMSprop", "Adagrad", "Adadelta"),
    *("Adafactor", "Muon"),
)
"""Those whose update can be differentiated: all of torch.optim but Rprop, SparseAdam and LBFGS."""


ADAPTIVE_OPTIMIZERS = tuple(name for name in DIFFERENTIABLE_OPTIMIZERS if name not in ("SGD", "ASGD"))


@dataclass(frozen=True)
class Rule:
    """One line of the table of ``auto``: the first rule that holds decides, the next one is the runner-up.

    Args:
        when: The condition in words, for the documentation.
        method: What is chosen.
        holds: The condition.
        reason: Why, about this lower.
    """

    when: str
    method: Method
    holds: Callable[[Problem], bool]
    reason: Callable[[Problem], str]


def _saved(lower: Problem) -> int:
    """Bytes that one differentiable update keeps."""
    facts = lower.facts
    return (facts.saved_bytes * lower.accumulation + facts.parameter_bytes) if facts and not facts.note else 2**62


def _short(lower: Problem) -> bool:
    return 2 <= lower.unroll <= SHORT_UNROLL and lower.optimizer in DIFFERENTIABLE_OPTIMIZERS and _twice(lower)


def _small(lower: Problem) -> bool:
    return lower.facts is not None and lower.facts.parameters <= SMALL_LOWER


def _traced(lower: Problem) -> bool:
    return lower.facts is not None and not lower.facts.note


def _twice(lower: Problem) -> bool:
    return _traced(lower) and bool(lower.facts and lower.facts.twice)


def _forward(lower: Problem) -> bool:
    return _twice(lower) and bool(lower.facts and lower.facts.forward)


def _adaptive(lower: Problem) -> bool:
    return lower.optimizer in ADAPTIVE_OPTIMIZERS


def _pair(inverse: str, product: str) -> Method:
    return Method(solver=complete(inverse, INVERSES[inverse], {}), product=complete(product, PRODUCTS[product], {}))


def _sized(lower: Problem) -> str:
    return f"lower of {count(lower)} parameters" if lower.facts else "lower of unknown size"


RULES: tuple[Rule, ...] = (
    Rule(
        f"2 to {SHORT_UNROLL} updates go with one step of the upper, its optimiser's update can be differentiated, and "
        f"the graphs of all of them fit in {UNROLL_BYTES >> 30} GiB",
        preset("unrolled"),
        lambda lower: _short(lower) and lower.unroll * _saved(lower) <= UNROLL_BYTES,
        lambda lower: f"{lower.unroll} {lower.optimizer} updates are few enough to differentiate",
    ),
    Rule(
        f"the same, and the graphs of a block of √n updates fit in {UNROLL_BYTES >> 30} GiB",
        preset("unrolled", {"remat": True}),
        lambda lower: _short(lower) and ceil(lower.unroll**0.5) * _saved(lower) <= UNROLL_BYTES,
        lambda lower: f"{lower.unroll} {lower.optimizer} updates, computed again a block at a time",
    ),
    Rule(
        f"more than {SHORT_UNROLL} updates go with one step of the upper, it has at most {SMALL_LOWER:,} parameters, "
        "and its loss can be differentiated twice",
        preset("cg"),
        lambda lower: (
            lower.unroll > SHORT_UNROLL
            and _twice(lower)
            and bool(lower.facts and lower.facts.parameters <= SMALL_LOWER)
        ),
        lambda lower: (
            f"{lower.unroll} updates bring the lower near its solution, "
            f"and {count(lower)} parameters are few enough to solve for"
        ),
    ),
    Rule(
        "its optimiser is adaptive (Adam and its relatives, RMSprop, Adagrad, ...), and forward mode works on its loss",
        _pair("sama", "forward"),
        lambda lower: _adaptive(lower) and _forward(lower),
        lambda lower: f"{_sized(lower)}, adapted to {lower.optimizer}; exact products for about one step",
    ),
    Rule(
        "its optimiser is adaptive",
        preset("sama"),
        _adaptive,
        lambda lower: f"{_sized(lower)}, adapted to {lower.optimizer}; {_no_forward(lower)}",
    ),
    Rule(
        "forward mode works on its loss",
        _pair("identity", "forward"),
        _forward,
        lambda lower: f"{_sized(lower)}; exact products for about one step",
    ),
    Rule(
        "any other",
        preset("finite_difference"),
        lambda lower: True,
        lambda lower: f"{_sized(lower)}; {_no_forward(lower)}",
    ),
)


def _no_forward(lower: Problem) -> str:
    if not _traced(lower):
        return "its loss could not be traced, and first derivatives do in any case"
    if _forward(lower):
        return "first-order cost and memory"
    return "its loss cannot be differentiated " + ("in forward mode" if _twice(lower) else "twice")


def choose(lower: Problem) -> tuple[Method, str]:
    """The method of the first rule that holds for ``lower``, and the reason with the runner-up."""
    holding = [rule for rule in RULES if rule.holds(lower)]
    first = holding[0]
    second = next((rule for rule in holding[1:] if rule.method != first.method), None)
    reason = first.reason(lower)
    if second is not None:
        reason += f"; runner-up {second.method.brief()}: {second.reason(lower)}"
    return first.method, reason


@dataclass(frozen=True)
class ChooseMethods:
    """Resolve ``auto`` edge by edge from facts about the lower; the first rule of ``RULES`` that holds decides."""

    name: str = "methods"
    requires: Stage = Stage.SCHEDULED
    ensures: Stage = Stage.RESOLVED

    def apply(self, graph: Graph) -> Graph:
        def resolved(edge: Edge) -> Edge:
            if edge.method is not None:
                return edge
            lower = graph.problem(edge.lower)
            if edge.upper in lower.update_reads:
                reason = f"the updates of {edge.lower} read {edge.upper}, which its loss alone does not show"
                return replace(edge, method=preset("unrolled"), reason=reason)
            method, reason = choose(lower)
            return replace(edge, method=method, reason=reason)

        return graph.map(edge=resolved)


def count(problem: Problem) -> str:
    return f"{problem.facts.parameters:,}" if problem.facts else "unknown"
