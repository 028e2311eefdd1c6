"""Lowering: a resolved graph becomes a plan."""

from __future__ import annotations

from collections.abc import Mapping

from betty.ir.graph import Graph
from betty.ir.passes.adjoints import Hypergradient, Slot, hypergradients
from betty.ir.passes.cost import Costs
from betty.ir.passes.schedule import order
from betty.ir.plan import Differentiate, Draw, Instruction, Plan, Respond, Step, Update


def lower(graph: Graph) -> Plan:
    """The plan of a graph of stage ``RESOLVED``."""
    found = hypergradients(graph)
    kept, taped = _memories(graph, found)
    costs = Costs(graph)
    steps = tuple(_step(graph, found[name], kept, taped, costs) for name in order(graph))
    settings = graph.settings
    return Plan(
        name=graph.name,
        iterations=settings.iterations,
        device=settings.device,
        precision=settings.precision,
        seed=settings.seed,
        edges=len(graph.edges),
        steps=steps,
    )


def _memories(graph: Graph, found: Mapping[str, Hypergradient]) -> tuple[dict[str, int], dict[str, int]]:
    """How many micro-batches, and how many differentiable updates, each problem keeps for the responses it gives."""
    kept: dict[str, int] = {}
    taped: dict[str, int] = {}
    for hypergradient in found.values():
        for response in hypergradient.responses:
            name = response.slot.problem
            if response.method.unrolled:
                taped[name] = max(taped.get(name, 0), int(response.method.solver["steps"] or 0))
            else:
                kept[name] = graph.problem(name).accumulation
    return kept, taped


def _step(
    graph: Graph, hypergradient: Hypergradient, kept: Mapping[str, int], taped: Mapping[str, int], costs: Costs
) -> Step:
    problem = graph.problem(hypergradient.target)
    names = slot_names(hypergradient)
    tape = taped.get(problem.name, 0)
    instructions: list[Instruction] = [
        Draw(keep=kept.get(problem.name, 0)),
        Differentiate(
            adjoints=tuple((slot.problem, names[slot]) for slot in hypergradient.seeds),
            estimate=costs.differentiate(problem.name, tape),
        ),
    ]
    for response in hypergradient.responses:
        edge = graph.edge(*response.slot.edge)
        instructions.append(
            Respond(
                problem=response.slot.problem,
                slot=names[response.slot],
                method=response.method,
                into=tuple((read, names[slot] if slot else "") for read, slot in response.into),
                edge=edge.name if edge else "",
                reason=edge.reason if edge else "",
                estimate=costs.respond(response.slot.problem, response.method),
            )
        )
    if problem.optimizer:
        update = Update(optimizer=problem.optimizer, every=problem.accumulation, tape=tape)
        instructions.append(update)
    lowers = (graph.problem(name) for name in graph.lowers(problem.name))
    return Step(
        problem=problem.name,
        period=problem.period or 1,
        level=problem.level or 0,
        after=tuple((low.name, low.warm_up) for low in lowers if low.warm_up),
        instructions=tuple(instructions),
    )


def slot_names(hypergradient: Hypergradient) -> dict[Slot, str]:
    """Readable, unique names: the problem's own, with ``'`` for an inner adjoint and a number for a second method."""
    names: dict[Slot, str] = {}
    for response in hypergradient.responses:
        slot = response.slot
        base = slot.problem + ("'" if slot.inner else "")
        same = sum(1 for other in names if (other.problem, other.inner) == (slot.problem, slot.inner))
        names[slot] = f"{base}#{same + 1}" if same else base
    return names
