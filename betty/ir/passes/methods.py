"""Methods: choose a method for every edge that asks for ``auto``, and say why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from betty.ir.graph import SINGLE, Edge, Graph, Problem
from betty.ir.methods import INVERSES, PRODUCTS, Method, complete, preset
from betty.ir.passes.base import Stage
from betty.ir.passes.cost import Costs
from betty.ir.passes.valuing import choose_valuation
from betty.ir.quantities import bytes_text
from betty.ir.sharded import FSDP, first_order

SMALL_LOWER = 20_000
"""Parameters up to which a solve by conjugate gradients costs little beside the lower's own steps."""
SHORT_UNROLL = 20
"""Updates up to which the lower's trajectory is kept and differentiated. Beyond them the lower is taken to come near
its solution, where a linear solve means something; before, its Hessian may be indefinite."""
UNROLL_BYTES = 2**30
"""What the graphs of a trajectory's updates may take, where the program sets no memory budget."""
DIFFERENTIABLE_OPTIMIZERS = (
    *("SGD", "ASGD"),
    *("Adam", "AdamW", "NAdam", "RAdam", "Adamax"),
    *("RMSprop", "Adagrad", "Adadelta"),
    *("Adafactor", "Muon"),
)
"""Those whose update can be differentiated: all of torch.optim but Rprop, SparseAdam and LBFGS."""


ADAPTIVE_OPTIMIZERS = tuple(name for name in DIFFERENTIABLE_OPTIMIZERS if name not in ("SGD", "ASGD"))


@dataclass(frozen=True)
class Case:
    """What a rule judges: a lower, and the program that it is part of."""

    graph: Graph
    lower: Problem

    @property
    def together(self) -> bool:
        """Whether several processes train the program."""
        return self.graph.settings.strategy != SINGLE

    @property
    def room(self) -> int | None:
        """Bytes of the budget that parameters, gradients and optimiser states leave; ``None`` without a budget."""
        budget = self.graph.settings.memory
        if budget is None:
            return None
        known = [problem.facts for problem in self.graph.problems if problem.facts is not None]
        return max(0, budget - sum(2 * facts.parameter_bytes + facts.state_bytes for facts in known))

    def fits(self, method: Method) -> bool:
        """Whether what a response is expected to hold is within the budget; so it is where neither is known."""
        estimate = Costs(self.graph).respond(self.lower.name, method)
        return self.room is None or estimate is None or estimate.bytes <= self.room

    @property
    def sharded(self) -> bool:
        """Whether there are first derivatives alone, as parameters are spread over the processes."""
        return self.graph.settings.strategy == FSDP

    def allows(self, method: Method) -> bool:
        return not self.sharded or first_order(method)

    def keeps(self, updates: int) -> bool:
        """Whether the graphs of so many updates fit."""
        estimate = Costs(self.graph).differentiate(self.lower.name, tape=updates)
        return estimate is not None and estimate.bytes <= (UNROLL_BYTES if self.room is None else self.room)


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
    holds: Callable[[Case], bool]
    reason: Callable[[Problem], str]


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
        f"the graphs of all of them fit in the memory budget, or in {UNROLL_BYTES >> 30} GiB where none is set",
        preset("unrolled"),
        lambda case: _short(case.lower) and case.keeps(case.lower.unroll),
        lambda lower: f"{lower.unroll} {lower.optimizer} updates are few enough to differentiate",
    ),
    Rule(
        "the same, and the graphs of a block of √n updates fit",
        preset("unrolled", {"remat": True}),
        lambda case: _short(case.lower) and case.keeps(ceil(case.lower.unroll**0.5)),
        lambda lower: f"{lower.unroll} {lower.optimizer} updates, computed again a block at a time",
    ),
    Rule(
        f"more than {SHORT_UNROLL} updates go with one step of the upper, it has at most {SMALL_LOWER:,} parameters, "
        "its loss can be differentiated twice, and one process trains the program (of several, each would solve with "
        "its own part of the data, or wait for the others at every product)",
        preset("cg"),
        lambda case: (
            case.lower.unroll > SHORT_UNROLL and not case.together and _small(case.lower) and _twice(case.lower)
        ),
        lambda lower: (
            f"{lower.unroll} updates bring the lower near its solution, "
            f"and {count(lower)} parameters are few enough to solve for"
        ),
    ),
    Rule(
        "its optimiser is adaptive (Adam and its relatives, RMSprop, Adagrad, ...), and forward mode works on its loss",
        _pair("sama", "forward"),
        lambda case: _adaptive(case.lower) and _forward(case.lower),
        lambda lower: f"{_sized(lower)}, adapted to {lower.optimizer}; exact products for about one step",
    ),
    Rule(
        "its optimiser is adaptive",
        preset("sama"),
        lambda case: _adaptive(case.lower),
        lambda lower: f"{_sized(lower)}, adapted to {lower.optimizer}; {_no_forward(lower)}",
    ),
    Rule(
        "forward mode works on its loss",
        _pair("identity", "forward"),
        lambda case: _forward(case.lower),
        lambda lower: f"{_sized(lower)}; exact products for about one step",
    ),
    Rule(
        "any other",
        preset("finite_difference"),
        lambda case: True,
        lambda lower: f"{_sized(lower)}; {_no_forward(lower)}",
    ),
)


def _no_forward(lower: Problem) -> str:
    if not _traced(lower):
        return "its loss could not be traced, and first derivatives do in any case"
    if _forward(lower):
        return "first-order cost and memory"
    return "its loss cannot be differentiated " + ("in forward mode" if _twice(lower) else "twice")


def choose(graph: Graph, lower: Problem) -> tuple[Method, str]:
    """The method of the first rule that holds for ``lower`` and fits, and the reason with the runner-up.

    Where nothing fits in the memory budget, the method that holds least is chosen, and the reason says so.
    """
    case = Case(graph, lower)
    holding = [rule for rule in RULES if rule.holds(case) and case.allows(rule.method)]
    fitting = [rule for rule in holding if case.fits(rule.method)]
    first, *others = fitting or holding[-1:]
    second = next((rule for rule in others if rule.method != first.method), None)
    reason = first.reason(lower)
    if case.sharded:
        reason += f"; {FSDP} takes methods of first derivatives alone"
    if not fitting and case.room is not None:
        reason += f"; nothing fits in the {bytes_text(case.room)} that the memory budget leaves"
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
            if edge.method is not None or edge.valuation is not None:
                return edge
            lower = graph.problem(edge.lower)
            if graph.problem(edge.upper).weights is not None:
                valuation, reason = choose_valuation(lower)
                return replace(edge, valuation=valuation, reason=reason)
            if edge.upper in lower.update_reads:
                reason = f"the updates of {edge.lower} read {edge.upper}, which its loss alone does not show"
                return replace(edge, method=preset("unrolled"), reason=reason)
            method, reason = choose(graph, lower)
            return replace(edge, method=method, reason=reason)

        return graph.map(edge=resolved)


def count(problem: Problem) -> str:
    return f"{problem.facts.parameters:,}" if problem.facts else "unknown"
