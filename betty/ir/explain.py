"""The plan as a person reads it, in a stable text form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from betty.ir.graph import SINGLE, Edge, Graph
from betty.ir.holding import peak_lines
from betty.ir.plan import Differentiate, Draw, Estimate, Exchange, Instruction, Plan, Respond, Step, Update
from betty.ir.quantities import amount, both, bytes_text, flops_text, plural, time_text
from betty.ir.rows import Row, aligned, because
from betty.ir.telling import valuing_lines, valuing_rows

__all__ = ["Measured", "Measurements", "amount", "bytes_text", "explain"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a profile found of one instruction: mean seconds of a call, peak bytes, and calls in all."""

    seconds: float
    bytes: int
    calls: int
    exchange: Exchange = field(default_factory=Exchange)
    """With other processes, in one call."""

    @property
    def total(self) -> float:
        return self.seconds * self.calls


Measurements = Mapping[tuple[str, int], Measured]
"""By problem and index of the instruction in its step."""

UNKNOWN = "?"
NOT_MEASURED = "-"
COMPILED = {"inductor": "compiled"}
HEAD = ("problem", "when", "what", "size", "work", "memory")
MET_HEAD = ("collectives",)
MEASURED_HEAD = ("time", "peak", "share")


def explain(
    plan: Plan, graph: Graph | None = None, measured: Measurements | None = None, held: int | None = None
) -> str:
    """The plan as a table: who steps when, which adjoints and responses follow in which order, at what cost.

    The row of a problem says what one of its steps does, and what all its instructions take together; the rows below
    it how its hypergradient comes about. Work is in floating-point operations of matrix products and convolutions;
    that of a response in steps of the problem that responds. ``?`` stands for what no trace has found. A primed
    adjoint, ``finetune'``, is the part that a problem has in the response of one of its uppers.

    Args:
        plan: What is explained.
        graph: Adds parameter counts and the edges whose method no response uses.
        held: The most bytes that the program was found to hold at once.
        measured: Adds, for every instruction, the mean time, the peak memory and the share of all measured time.
    """
    table = _Table(plan, graph, measured)
    repeat = f"repeat {plan.iterations}" + (", then log and score" if plan.then is not None else "")
    head, tail = [_title(plan), repeat], [*_unused(plan, graph), *valuing_lines(plan), *peak_lines(plan, held)]
    return "\n".join([*head, *aligned(table.rows()), *tail])


def _title(plan: Plan) -> str:
    parts = [
        plural(len(plan.steps) + (plan.then is not None), "problem"),
        plural(plan.edges, "edge"),
        plan.precision,
        plan.device,
    ]
    parts += [plan.strategy] if plan.strategy != SINGLE else []
    parts += [COMPILED.get(plan.compile, f"compiled ({plan.compile})")] if plan.compile else []
    return f"plan {_shown(plan.name)}   {' · '.join(parts)}"


def _shown(name: str) -> str:
    """Names from Python may hold line breaks, which would end the row."""
    return name if name.isprintable() else json.dumps(name)


@dataclass(frozen=True)
class _Table:
    plan: Plan
    graph: Graph | None
    measured: Measurements | None
    # Work of one step of each problem, without what it asks of others: the unit of its responses.
    units: dict[str, int] = field(init=False)
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        units = {step.problem: _work_of(step) for step in self.plan}
        object.__setattr__(self, "units", units)
        object.__setattr__(self, "seconds", sum(one.total for one in (self.measured or {}).values()))

    def rows(self) -> Iterator[tuple[str, ...]]:
        yield HEAD + (MET_HEAD if self.together else ()) + (self._measured_head if self.measured is not None else ())
        for step in self.plan:
            measured = self._together(step)
            yield Row(
                who=_shown(step.problem),
                when=_when(step),
                what=f"{_chain(step, apart=self.plan.then is not None)}{self._again(step)}",
                size=self._size(step.problem),
                cost=_total(step.instructions),
                met=self._met(*step.instructions),
                measured=measured,
            ).cells
            if step.ahead:
                yield Row(who="  then", what=f"back to before, once {_answering(step)}, and one real update").cells
            for lower, least in step.after:
                yield Row(who="  after", when=_shown(lower), what=f"has taken {plural(least, 'micro-batch')}").cells
            for index, item in enumerate(step.instructions):
                yield from (row.cells for row in self._instruction(step, item, self._one(step, index)))
        if self.plan.then is not None:
            yield from (row.cells for row in valuing_rows(self.plan.then, self.units))

    @property
    def together(self) -> bool:
        """Whether several processes run the plan."""
        return any(item.exchange is not None for step in self.plan for item in step.instructions)

    @property
    def _measured_head(self) -> tuple[str, ...]:
        return (*MEASURED_HEAD, "met") if self.together else MEASURED_HEAD

    def _met(self, *items: Instruction) -> tuple[str, ...]:
        """How often processes meet, and the bytes that each gives to the others."""
        return (_exchanged([item.exchange for item in items if item.exchange is not None]),) if self.together else ()

    def _again(self, step: Step) -> str:
        recomputes = self.graph is not None and self.graph.problem(step.problem).recomputes
        return ", computes activations again" if recomputes else ""

    def _size(self, name: str) -> str:
        if self.graph is None:
            return ""
        facts = self.graph.problem(name).facts
        size = f"{amount(facts.parameters if facts and not facts.note else None)} params"
        own = self.graph.problem(name).precision
        return size if own == self.plan.precision else f"{size} {own}"

    def _instruction(self, step: Step, item: Instruction, measured: tuple[str, ...]) -> Iterator[Row]:
        if isinstance(item, Respond):
            yield from _arriving(step, item)
            cost = (self._in_steps(item), bytes_text(item.estimate.bytes) if item.estimate else UNKNOWN)
            method = item.method.brief()
            met = self._met(item)
            yield Row(who="  respond", when=_shown(item.slot), what=method, cost=cost, met=met, measured=measured)
            yield from because(item.reason)
            if item.method.second_order and self._plain(item.problem):
                yield Row(who="", what="(attention and recurrent layers by plain kernels, which can be differentiated)")
            yield Row(who="  into", when=", ".join(_shown(slot or read) for read, slot in item.into))
            return
        if measured:
            cost = _cost(item.estimate) if isinstance(item, Differentiate) else ("", "")
            yield Row(who=f"  {item.op}", what=_keeps(item), cost=cost, met=self._met(item), measured=measured)
        if isinstance(item, Differentiate):
            for problem, slot in item.adjoints:
                yield Row(who="  adjoint", when=_shown(slot), what=f"∂L_{_shown(step.problem)}/∂{_shown(problem)}")

    def _plain(self, name: str) -> bool:
        """Whether exact derivatives of a problem's loss take other kernels than its own steps do."""
        facts = self.graph.problem(name).facts if self.graph else None
        return facts is not None and facts.plain

    def _in_steps(self, item: Respond) -> str:
        """Work of a response, in steps of the problem that responds."""
        if item.estimate is None:
            return UNKNOWN
        unit = self.units.get(item.problem, 0)
        return f"≈ {item.estimate.flops / unit:,.1f} steps" if unit else flops_text(item.estimate.flops)

    def _one(self, step: Step, index: int) -> tuple[str, ...]:
        if self.measured is None:
            return ()
        found = self.measured.get((step.problem, index))
        return self._readings([found] if found else [])

    def _together(self, step: Step) -> tuple[str, ...]:
        if self.measured is None:
            return ()
        keys = ((step.problem, index) for index in range(len(step.instructions)))
        return self._readings([self.measured[key] for key in keys if key in self.measured])

    def _readings(self, found: list[Measured]) -> tuple[str, ...]:
        """Time, peak memory and share of what is measured in ``found``; a step takes its instructions in turn."""
        if not found:
            return (NOT_MEASURED,) * len(self._measured_head)
        share = sum(one.total for one in found) / self.seconds if self.seconds else 0.0
        seconds, peak = sum(one.seconds for one in found), max(one.bytes for one in found)
        met = (_exchanged([one.exchange for one in found]),) if self.together else ()
        return time_text(seconds), bytes_text(peak), f"{share:.0%}", *met


def _exchanged(found: list[Exchange]) -> str:
    calls = sum(one.calls for one in found)
    return f"{calls} · {bytes_text(sum(one.bytes for one in found))}" if calls else ""


def _work_of(step: Step) -> int:
    own = (item.estimate for item in step.instructions if isinstance(item, Draw | Differentiate))
    return sum(estimate.flops for estimate in own if estimate is not None)


def _when(step: Step) -> str:
    return "every step" if step.period == 1 else f"every {step.period:,}"


def _chain(step: Step, apart: bool) -> str:
    """``batch -> loss -> hypergradient -> Adam``; of losses that are ``apart``, one for each example, the mean."""
    loss = ["losses", "mean"] if apart else ["loss"]
    chain = " -> ".join(["batch", *loss, "hypergradient" if step.responses else "backward"])
    update = next((item for item in step.instructions if isinstance(item, Update)), None)
    if update is None:
        return f"{chain}, never updated"
    if update.every > 1:
        chain = f"({chain}) ×{update.every}"
    return ", ".join([f"{chain} -> {update.optimizer}", *_kept_of(update)])


def _kept_of(update: Update) -> Iterator[str]:
    """What is kept of updates, for responses that look back on them."""
    if update.tape:
        yield f"records the last {plural(update.tape, 'update')}"
    if update.replay:
        yield f"can make the last {plural(update.replay, 'update')} again"
    if update.tangents:
        yield f"carries derivatives for {', '.join(update.tangents)}"


def _answering(step: Step) -> str:
    return f"{' or '.join(_shown(name) for name in step.answered_by)} has stepped"


def _keeps(item: Instruction) -> str:
    return f"keeps the last {item.keep}" if isinstance(item, Draw) and item.keep else ""


def _arriving(step: Step, item: Respond) -> Iterator[Row]:
    """Where an adjoint that the loss does not start comes from."""
    if any(
        slot == item.slot for one in step.instructions if isinstance(one, Differentiate) for _, slot in one.adjoints
    ):
        return
    givers = (one.problem for one in step.responses if any(slot == item.slot for _, slot in one.into))
    sources = [_shown(name) for name in dict.fromkeys(givers)]
    inner = item.slot.startswith(f"{item.problem}'")
    name = _shown(item.problem)
    what = f"{name} as part of the response of {both(sources)}" if inner else f"through {both(sources)}"
    yield Row(who="  adjoint", when=_shown(item.slot), what=what)


def _total(items: tuple[Instruction, ...]) -> tuple[str, str]:
    """Work of all instructions, and the memory of the one that takes most."""
    estimates = [item.estimate for item in items if isinstance(item, Differentiate | Respond)]
    known = [estimate for estimate in estimates if estimate is not None]
    if not known:
        return UNKNOWN, UNKNOWN
    cost = _cost(Estimate(flops=sum(one.flops for one in known), bytes=max(one.bytes for one in known)))
    return cost if len(known) == len(estimates) else (f"> {cost[0]}", f"> {cost[1]}")


def _cost(estimate: Estimate | None) -> tuple[str, str]:
    return (flops_text(estimate.flops), bytes_text(estimate.bytes)) if estimate else (UNKNOWN, UNKNOWN)


def _unused(plan: Plan, graph: Graph | None) -> Iterator[str]:
    """Edges whose method no response uses, and whose does instead."""
    if graph is None:
        return
    answers: dict[str, dict[str, None]] = {}
    for step in plan:
        for item in step.responses:
            answers.setdefault(item.problem, {})[item.edge] = None
    for edge in graph.edges:
        if edge.method is not None and edge.name not in answers.get(edge.lower, {}):
            yield _unused_line(edge, [_shown(name) for name in answers.get(edge.lower, {})])


def _unused_line(edge: Edge, answers: list[str]) -> str:
    method = f"method {edge.method.brief()}" if edge.method else "no method"
    why = f"answered by {both(answers)}" if answers else f"no hypergradient passes through {_shown(edge.lower)}"
    return f"unused  edge {_shown(edge.name)}  {method}: {why}"
