r"""Adjoints: which responses each hypergradient needs, in which order, and what they share.

For the hypergradient of U let ``x`` range over the problems below U. The adjoint :math:`\lambda_x` starts as
:math:`\partial L_U / \partial \theta_x` and gains :math:`-(\partial g_y / \partial \theta_x)^T q_y` from every
problem ``y`` whose loss reads ``x`` and which has an adjoint itself, where :math:`q_y = H_y^{-1} \lambda_y`. Taking
readers before what they read, every adjoint is complete when it is used, so each problem is solved for once and
the work grows with the edges and not with the paths.

Where a lower reads its upper and the upper reads the lower back (``y`` and ``x`` in one *knot*), no such order
exists. The nested program says what to do: seen from above, the lower answers to the upper's motion (its *outer*
adjoint passes up to the upper); but as part of the upper's own response the upper stands still (its *inner*
adjoint does not). So within a knot outer adjoints are taken from the lowest level up and inner ones from the
highest down, two solves at most. A response's Hessian is the problem's own :math:`\partial^2 L / \partial
\theta^2`; in a knot that drops the terms by which the lower's answer bends the upper's loss (Choe et al. 2023,
arXiv:2207.02849). Without knots nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import networkx as nx

from betty.ir.graph import Edge, Graph
from betty.ir.methods import Method

State = tuple[str, bool]
"""A problem, and whether its adjoint is an inner one."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One accumulated adjoint: the problem it belongs to, the method that will answer it, inner or outer."""

    problem: str
    edge: tuple[str, str]
    inner: bool = False


@dataclass(frozen=True, kw_only=True)
class Response:
    """One solve: consume the adjoint in ``slot`` and add to the adjoints of what the problem's loss reads.

    Args:
        slot: The adjoint to answer.
        method: How, with every option resolved.
        into: What gains: pairs of a problem read and the slot of its adjoint; no slot for the target itself.
    """

    slot: Slot
    method: Method
    into: tuple[tuple[str, Slot | None], ...]


@dataclass(frozen=True, kw_only=True)
class Hypergradient:
    """How the hypergradient of ``target`` is put together after its loss has been evaluated.

    Args:
        target: The problem.
        seeds: Adjoints that start from the partial derivatives of the target's own loss.
        responses: In the order of execution.
    """

    target: str
    seeds: tuple[Slot, ...] = ()
    responses: tuple[Response, ...] = ()


def hypergradients(graph: Graph) -> dict[str, Hypergradient]:
    """The hypergradient of every problem, in the order of declaration; a graph of stage ``RESOLVED``."""
    return {problem.name: _Search(graph, problem.name).run() for problem in graph.problems}


class _Search:
    """The hypergradient of one target; states that no adjoint reaches or that reach no target are left out."""

    def __init__(self, graph: Graph, target: str) -> None:
        self.graph, self.target = graph, target
        acts = any(edge.flow.down for edge in graph.edges if edge.upper == target)
        self.below: set[str] = nx.ancestors(graph.digraph, target) if acts else set()
        self.knot: dict[str, int] = {}

    def run(self) -> Hypergradient:
        seeds = [(name, False) for name in self.graph.reads(self.target) if name in self.below]
        if not seeds:
            return Hypergradient(target=self.target)
        self._tie_knots()
        live = self._live(seeds)
        slots: dict[State, list[Slot]] = {state: [] for state in live}
        start = [self._arrive(slots, state, self.target) for state in seeds if state in live]
        responses = [response for state in live for response in self._respond(slots, state)]
        return Hypergradient(target=self.target, seeds=tuple(start), responses=tuple(responses))

    def _tie_knots(self) -> None:
        """Number the knots so that readers come before what they read."""
        reads = nx.DiGraph((x, y) for x in self.below for y in self.graph.reads(x) if y in self.below)
        reads.add_nodes_from(self.below)
        # Tarjan's algorithm yields a component after all components that it leads to.
        knots = list(nx.strongly_connected_components(reads))
        self.knot = {name: -index for index, members in enumerate(knots) for name in members}

    def _next(self, state: State) -> Iterator[State]:
        """Where the adjoint of ``state`` passes to, the target left out."""
        name, inner = state
        for read in self.graph.reads(name):
            if read not in self.below:
                continue
            if self.knot[read] != self.knot[name]:
                yield read, False
            elif self.graph.edge(name, read) is not None:
                yield read, True
            elif not inner:
                yield read, False

    def _live(self, seeds: list[State]) -> list[State]:
        """States on a way from a seed to the target, readers first."""
        reached = dict.fromkeys(seeds)
        front, before = list(seeds), {}
        while front:
            state = front.pop()
            for after in self._next(state):
                before.setdefault(after, []).append(state)
                if after not in reached:
                    reached[after] = None
                    front.append(after)
        useful = {state for state in reached if self.target in self.graph.reads(state[0])}
        front = list(useful)
        while front:
            for state in before.get(front.pop(), ()):
                if state not in useful:
                    useful.add(state)
                    front.append(state)
        return sorted(useful, key=self._rank)

    def _rank(self, state: State) -> tuple[int, bool, int, int]:
        name, inner = state
        level = self.graph.problem(name).level or 0
        return self.knot[name], inner, -level if inner else level, self.graph.position(name)

    def _arrive(self, slots: dict[State, list[Slot]], state: State, reader: str) -> Slot:
        """The slot of ``state`` for an adjoint that comes from ``reader``; slots of one method are one slot."""
        edge = self._edge(state[0], reader)
        for slot in slots[state]:
            known = self.graph.edge(*slot.edge)
            if known is not None and known.method == edge.method:
                return slot
        slots[state].append(Slot(problem=state[0], edge=(edge.upper, edge.lower), inner=state[1]))
        return slots[state][-1]

    def _edge(self, name: str, reader: str) -> Edge:
        """The edge whose method answers: the target's own, else the reader's, else the first below the target."""
        above = (self.target, reader, *(upper for upper in self.graph.uppers(name) if upper in self.below))
        found: Iterable[Edge | None] = (self.graph.edge(upper, name) for upper in above)
        return next(edge for edge in found if edge is not None)

    def _respond(self, slots: dict[State, list[Slot]], state: State) -> Iterator[Response]:
        name = state[0]
        after = {read: (read, inner) for read, inner in self._next(state) if (read, inner) in slots}
        for slot in slots[state]:
            into: list[tuple[str, Slot | None]] = []
            for read in self.graph.reads(name):
                if read == self.target:
                    into.append((read, None))
                elif read in after:
                    into.append((read, self._arrive(slots, after[read], name)))
            yield Response(slot=slot, method=self._method(slot), into=tuple(into))

    def _method(self, slot: Slot) -> Method:
        """The edge's method; a trajectory of ``steps=0`` takes all updates since the target's last step."""
        edge = self.graph.edge(*slot.edge)
        if edge is None or edge.method is None:
            raise ValueError(f"edge {slot.edge} has no method")
        if not edge.method.unrolled or edge.method.solver["steps"]:
            return edge.method
        lower, target = self.graph.problem(slot.problem), self.graph.problem(self.target)
        steps = max(1, (target.period or 1) // ((lower.period or 1) * lower.accumulation))
        options = tuple((key, steps if key == "steps" else value) for key, value in edge.method.solver.options)
        return replace(edge.method, solver=replace(edge.method.solver, options=options))

