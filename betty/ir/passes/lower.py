"""Lowering: a resolved graph becomes a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from betty.ir.graph import Graph
from betty.ir.methods import Method
from betty.ir.passes.adjoints import Hypergradient, Slot, hypergradients
from betty.ir.passes.cost import Costs
from betty.ir.passes.exchange import Exchanges
from betty.ir.passes.peak import peak
from betty.ir.passes.schedule import order
from betty.ir.passes.valuing import valuing
from betty.ir.plan import Differentiate, Draw, Instruction, Plan, Respond, Step, Update


def lower(graph: Graph) -> Plan:
    """The plan of a graph of stage ``RESOLVED``."""
    whole, graph = graph, graph.trained
    found = hypergradients(graph)
    memories, waits = _memories(graph, found), _waits(graph)
    steps = tuple(_step(graph, found[name], memories[name], waits) for name in order(graph))
    then = valuing(whole, whole.valued) if whole.valued is not None else None
    settings = graph.settings
    return Plan(
        name=graph.name,
        iterations=settings.iterations,
        device=settings.device,
        precision=settings.precision,
        seed=settings.seed,
        strategy=settings.strategy,
        reason=settings.reason,
        memory=settings.memory,
        edges=len(whole.edges),
        compile=settings.compile,
        steps=steps,
        then=then,
        peak=peak(graph, steps, then),
    )


@dataclass
class Memory:
    """What a problem keeps for the responses that it gives; see :class:`Draw` and :class:`Update`."""

    keep: int = 0
    tape: int = 0
    replay: int = 0
    tangents: tuple[str, ...] = ()
    remember: bool = False
    columns: int = 0
    """Derivatives that are carried along: one for each entry of what is read."""

    def serve(self, method: Method, target: str, accumulation: int, entries: int) -> None:
        """Make room for one more response, in the hypergradient of ``target``, into so many ``entries``."""
        name, steps = method.solver.name, method.steps or 1
        self.remember |= method.adapts
        if method.implicit or name == "penalty":
            self.keep = max(self.keep, accumulation)
        elif name == "reinforce":
            self.keep = max(self.keep, accumulation * steps)
        elif name == "forward_mode":
            self.tangents = tuple(dict.fromkeys((*self.tangents, target)))
            self.columns += entries
        elif name == "evolution_strategies":
            self.keep, self.replay = max(self.keep, accumulation), max(self.replay, steps)
        elif method.solver["remat"]:
            self.replay = max(self.replay, steps)
        else:
            self.tape = max(self.tape, steps)


def _memories(graph: Graph, found: Mapping[str, Hypergradient]) -> dict[str, Memory]:
    memories = {problem.name: Memory() for problem in graph.problems}
    for name, memory in memories.items():
        if _ahead(graph, name):
            memory.keep = graph.problem(name).accumulation
    for target, hypergradient in found.items():
        for response in hypergradient.responses:
            name = response.slot.problem
            read = [graph.problem(one).facts for one, _ in response.into]
            entries = sum(facts.parameters for facts in read if facts is not None)
            memories[name].serve(response.method, target, graph.problem(name).accumulation, entries)
    return memories


def _waits(graph: Graph) -> dict[str, int]:
    """Micro-batches that each problem takes before those above it begin: its warm-up, and its first loop at least.

    The loop is complete by then in any case, unless the problem itself has to wait for the warm-up of one below it.
    """
    found: dict[str, int] = {}
    for name in order(graph):
        problem = graph.problem(name)
        late = any(found[low] for low in graph.lowers(name))
        found[name] = max(problem.warm_up, problem.unroll * problem.accumulation - 1 if late else 0)
    return found


def _answering(graph: Graph, name: str) -> tuple[str, ...]:
    """Problems above that read the solution of this one."""
    found = ((upper, graph.edge(upper, name)) for upper in graph.uppers(name))
    return tuple(upper for upper, edge in found if edge is not None and edge.flow.up)


def _ahead(graph: Graph, name: str) -> int:
    """Micro-batches of a problem's look-ahead: as many as make its unroll, where there is a problem above to answer."""
    problem = graph.problem(name)
    looks = graph.settings.roll_back and problem.optimizer and _answering(graph, name)
    return problem.unroll * problem.accumulation if looks else 0


def _step(graph: Graph, hypergradient: Hypergradient, memory: Memory, waits: Mapping[str, int]) -> Step:
    problem = graph.problem(hypergradient.target)
    names, costs, exchanges = slot_names(hypergradient), Costs(graph), Exchanges(graph)
    instructions: list[Instruction] = [
        Draw(keep=memory.keep),
        Differentiate(
            adjoints=tuple((slot.problem, names[slot]) for slot in hypergradient.seeds),
            estimate=costs.differentiate(problem.name, memory.tape, memory.columns),
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
                exchange=exchanges.respond(response.slot.problem, response.method),
                local=exchanges.local(response.method),
            )
        )
    if problem.optimizer:
        instructions.append(
            Update(
                optimizer=problem.optimizer,
                every=problem.accumulation,
                tape=memory.tape,
                replay=memory.replay,
                tangents=memory.tangents,
                remember=memory.remember,
                exchange=exchanges.update(problem.name, memory.tape, memory.replay, memory.columns),
            )
        )
    return Step(
        problem=problem.name,
        period=problem.period or 1,
        level=problem.level or 0,
        after=tuple((low, waits[low]) for low in graph.lowers(problem.name) if waits[low]),
        ahead=_ahead(graph, problem.name),
        answered_by=_answering(graph, problem.name) if _ahead(graph, problem.name) else (),
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
