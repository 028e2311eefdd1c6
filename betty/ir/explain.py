"""The plan as a person reads it, in a stable text form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from betty.ir.graph import Edge, Graph
from betty.ir.plan import Differentiate, Draw, Estimate, Instruction, Plan, Respond, Step, Update


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a profile found of one instruction: mean seconds of a call, peak bytes, and calls in all."""

    seconds: float
    bytes: int
    calls: int


Measurements = Mapping[tuple[str, int], Measured]
"""By problem and index of the instruction in its step."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    who: str
    what: str = ""
    how: str = ""
    work: str = ""
    memory: str = ""
    time: str = ""
    peak: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        return self.who, self.what, self.how, self.work, self.memory, self.time, self.peak


HEAD = Row("problem", "does", "how", "work", "memory")
MEASURED_HEAD = Row("problem", "does", "how", "work", "memory", "time", "peak")


def explain(plan: Plan, graph: Graph | None = None, measured: Measurements | None = None) -> str:
    """The plan as a table: who steps when, which adjoints and responses follow in which order, at what cost.

    Work is in floating-point operations of matrix products and convolutions; that of a response also in steps of
    the problem that responds. ``?`` stands for what no trace has found.

    Args:
        plan: What is explained.
        graph: Adds parameter counts and the edges whose method no response uses.
        measured: Adds the measured time and peak memory of every instruction.
    """
    rows = [HEAD if measured is None else MEASURED_HEAD]
    for step in plan:
        rows.extend(_step_rows(plan, step, graph, measured))
    return "\n".join([_title(plan), f"repeat {plan.iterations}", *_table(rows), *_unused(plan, graph)])


def _title(plan: Plan) -> str:
    parts = [_plural(len(plan.steps), "problem"), _plural(plan.edges, "edge"), plan.precision, plan.device]
    return f"plan {plan.name}   {' · '.join(parts)}"


def _step_rows(plan: Plan, step: Step, graph: Graph | None, measured: Measurements | None) -> Iterator[Row]:
    yield Row(step.problem, _when(step), _chain(step, graph), *_total(step.instructions))
    for index, item in enumerate(step.instructions):
        found = measured.get((step.problem, index)) if measured else None
        for row in _instruction_rows(plan, step, item, detailed=measured is not None):
            yield _with_measurement(row, found)
            found = None


def _when(step: Step) -> str:
    when = "every step" if step.period == 1 else f"every {step.period}"
    return "".join([when, *(f", after {least} of {lower}" for lower, least in step.after)])


def _chain(step: Step, graph: Graph | None) -> str:
    """``batch x 4 -> loss -> hypergradient -> Adam``, and what the problem holds."""
    update = next((item for item in step.instructions if isinstance(item, Update)), None)
    batch = f"batch × {update.every}" if update and update.every > 1 else "batch"
    chain = [batch, "loss", "hypergradient" if step.responses else "backward"]
    if update:
        chain.append(update.optimizer)
    notes = [f"{amount(_parameters(graph, step.problem))} params"] if graph else []
    if update and update.tape:
        notes.append(f"records the last {_plural(update.tape, 'update')}")
    if not update:
        notes.append("never updated")
    return " -> ".join(chain) + "".join(f"   {note}" for note in notes)


def _parameters(graph: Graph | None, name: str) -> int | None:
    facts = graph.problem(name).facts if graph else None
    return facts.parameters if facts else None


def _instruction_rows(plan: Plan, step: Step, item: Instruction, detailed: bool) -> Iterator[Row]:
    cost = _cost(item.estimate)
    if isinstance(item, Respond):
        yield Row("", f"respond {item.slot}", item.method.to_text(), _work(plan, item), cost[1])
        if item.reason:
            yield Row("", "", f"auto: {item.reason}")
        yield Row("", f"into {', '.join(_into(read, slot) for read, slot in item.into)}")
    elif isinstance(item, Differentiate):
        if detailed:
            yield Row("", "loss, backward", "", *cost)
        for problem, slot in item.adjoints:
            yield Row("", f"adjoint {slot}", f"∂L_{step.problem}/∂{problem}")
    elif detailed:
        keeps = f"keeps {item.keep}" if isinstance(item, Draw) and item.keep else ""
        yield Row("", item.op, keeps)


def _into(read: str, slot: str) -> str:
    """What gains; an inner adjoint (see ``betty.ir.passes.adjoints``) is written with a prime."""
    return slot or read


def _work(plan: Plan, item: Respond) -> str:
    """Work of a response, in steps of the problem that responds as well."""
    one = sum(part.estimate.flops for part in plan.step(item.problem).instructions if part.estimate)
    if item.estimate is None or not one:
        return _cost(item.estimate)[0]
    return f"{_cost(item.estimate)[0]} ≈ {item.estimate.flops / one:.1f} steps"


def _total(items: tuple[Instruction, ...]) -> tuple[str, str]:
    """Work of all instructions, and the memory of the one that takes most."""
    known = [item.estimate for item in items if item.estimate is not None]
    if not known:
        return "?", "?"
    return _cost(Estimate(flops=sum(one.flops for one in known), bytes=max(one.bytes for one in known)))


def _cost(estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None:
        return "?", "?"
    return f"{amount(estimate.flops)} FLOP" if estimate.flops else "?", bytes_text(estimate.bytes)


def _with_measurement(row: Row, found: Measured | None) -> Row:
    if found is None:
        return row
    return Row(*row.cells[:5], f"{found.seconds * 1e3:.3g} ms × {found.calls}", bytes_text(found.bytes))


def _table(rows: list[Row]) -> list[str]:
    widths = [max(len(row.cells[column]) for row in rows) for column in range(len(HEAD.cells))]
    return ["  " + _line(row, widths) for row in rows]


def _line(row: Row, widths: list[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row.cells, widths, strict=True)]
    return "  ".join(cells).rstrip()


def _unused(plan: Plan, graph: Graph | None) -> Iterator[str]:
    """Edges with a method of the user's that no response uses."""
    if graph is None:
        return
    used = {item.edge for step in plan for item in step.responses}
    for edge in graph.edges:
        if edge.name not in used and edge.method is not None and not edge.reason:
            yield f"unused  edge {edge.name}  {edge.method.to_text()}: {_why_unused(graph, edge)}"


def _why_unused(graph: Graph, edge: Edge) -> str:
    others = [f"{upper} -> {edge.lower}" for upper in graph.uppers(edge.lower) if upper != edge.upper]
    return f"answered by {' or '.join(others)}" if others else "no hypergradient passes here"


def amount(number: int | None) -> str:
    """``64``, ``12.5 k``, ``0.27 M``; ``?`` for ``None``."""
    if number is None:
        return "?"
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**5, "M"), (10**3, "k")):
        if number >= size:
            scale = 10**6 if unit == "M" else size
            return f"{number / scale:.3g} {unit}"
    return str(number)


def bytes_text(number: int) -> str:
    """``512 B``, ``4.1 KB``, ``12 MB``, ``1.5 GB``; powers of 1,000."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")
