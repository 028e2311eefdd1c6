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
arXiv:2207.02849). An inner adjoint also does not pass up to problems between the upper that stands still and the
target; that leaves out paths where four or more problems read one another, and keeps the work linear. Without knots
nothing is dropped.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

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
    readings = _Readings(graph)
    return {problem.name: _Search(readings, problem.name).run() for problem in graph.problems}


class _Read(NamedTuple):
    """One problem that another one's loss reads."""

    name: str
    raises: bool
    """Whether it is an upper of its reader, so that adjoints rise to it."""
    tied: bool | None
    """Whether the two are in one knot; ``None`` where that depends on what lies below the target."""


class _Readings:
    """What the searches of all targets share: who is below whom, and who reads whom in which way."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        # Sets of problems as the bits of an integer: a thousand targets with a thousand problems below stay small.
        self.bit = {problem.name: 1 << graph.position(problem.name) for problem in graph.problems}
        self.below: dict[str, int] = {}
        for name in nx.topological_sort(graph.digraph):
            parts = (self.below[lower] | self.bit[lower] for lower in graph.lowers(name))
            self.below[name] = functools.reduce(operator.or_, parts, 0)
        self.acting = {edge.upper for edge in graph.edges if edge.flow.down}
        self._knot = self.knots(graph.digraph)
        self.reads = {name: [self._read(name, read) for read in graph.reads(name)] for name in self.bit}

    def _read(self, name: str, read: str) -> _Read:
        edge = self.graph.edge(read, name)
        if name in self.graph.reads(read):
            return _Read(read, raises=edge is not None, tied=True)
        # Among fewer problems there are no more knots.
        return _Read(read, raises=edge is not None, tied=None if self._knot[name] == self._knot[read] else False)

    def knots(self, names: Iterable[str]) -> dict[str, int]:
        """Problems with equal numbers read each other, directly or through others among ``names``."""
        reads: nx.DiGraph[str] = nx.DiGraph()
        reads.add_nodes_from(names)
        reads.add_edges_from([(x, y) for x in reads for y in self.graph.reads(x) if y in reads])
        knots = enumerate(nx.strongly_connected_components(reads))
        return {name: index for index, members in knots for name in members}


class _Search:
    """The hypergradient of one target; states that no adjoint reaches or that reach no target are left out."""

    def __init__(self, readings: _Readings, target: str) -> None:
        self.graph, self.target, self.readings = readings.graph, target, readings
        self.below = readings.below[target] if target in readings.acting else 0

    @functools.cached_property
    def _knot(self) -> dict[str, int]:
        return self.readings.knots(name for name in self.readings.bit if self._is_below(name))

    def run(self) -> Hypergradient:
        seeds = [(name, False) for name in self.graph.reads(self.target) if self._is_below(name)]
        if not seeds:
            return Hypergradient(target=self.target)
        live = self._live(seeds)
        slots: dict[State, list[Slot]] = {state: [] for state in live}
        start = [self._arrive(slots, state, self.target) for state in seeds if state in live]
        responses = [response for state, after in live.items() for response in self._respond(slots, state, after)]
        return Hypergradient(target=self.target, seeds=tuple(start), responses=tuple(responses))

    def _is_below(self, name: str) -> bool:
        return bool(self.below & self.readings.bit[name])

    def _next(self, state: State) -> list[State]:
        """Where the adjoint of ``state`` passes to, the target left out."""
        name, inner = state
        after: list[State] = []
        for read, raises, known in self.readings.reads[name]:
            if (inner and raises and known) or (raises and not self._is_below(read)):
                continue
            tied = self._knot[name] == self._knot[read] if known is None else known
            if not (inner and raises and tied):
                after.append((read, tied and not raises))
        return after

    def _live(self, seeds: list[State]) -> dict[State, list[State]]:
        """States on a way from a seed to the target, readers first, each with the states that it passes to."""
        after: dict[State, list[State]] = {}
        front = list(seeds)
        while front:
            state = front.pop()
            if state not in after:
                after[state] = self._next(state)
                front += after[state]
        useful = self._useful(after)
        return {state: [read for read in after[state] if read in useful] for state in self._sorted(after, useful)}

    def _useful(self, after: Mapping[State, list[State]]) -> set[State]:
        """States from which there is a way to the target."""
        before: dict[State, list[State]] = {}
        for state, passed in after.items():
            for read in passed:
                before.setdefault(read, []).append(state)
        useful: set[State] = set()
        front = [state for name in self.graph.readers(self.target) for state in ((name, False), (name, True))]
        while front:
            state = front.pop()
            if state in after and state not in useful:
                useful.add(state)
                front += before.get(state, ())
        return useful

    def _sorted(self, after: Mapping[State, list[State]], useful: set[State]) -> Iterator[State]:
        """Readers before what they read; where that leaves a choice, the same one in every run."""
        passes: nx.DiGraph[State] = nx.DiGraph()
        passes.add_nodes_from(useful)
        passes.add_edges_from([(state, read) for state in useful for read in after[state] if read in useful])
        found: Iterator[State] = nx.lexicographical_topological_sort(passes, key=self._rank)
        return found

    def _rank(self, state: State) -> tuple[bool, int]:
        return state[1], self.graph.position(state[0])

    def _arrive(self, slots: dict[State, list[Slot]], state: State, reader: str) -> Slot:
        """The slot of ``state`` for an adjoint that comes from ``reader``; slots of one method are one slot."""
        edge = self._edge(state[0], reader)
        new = Slot(problem=state[0], edge=(edge.upper, edge.lower), inner=state[1])
        method = self._method(new)
        for slot in slots[state]:
            if self._method(slot) == method:
                return slot
        slots[state].append(new)
        return new

    def _edge(self, name: str, reader: str) -> Edge:
        """The edge whose method answers: the target's own, else the reader's, else the first below the target."""
        above = (self.target, reader, *(upper for upper in self.graph.uppers(name) if self._is_below(upper)))
        found: Iterable[Edge | None] = (self.graph.edge(upper, name) for upper in above)
        return next(edge for edge in found if edge is not None)

    def _respond(self, slots: dict[State, list[Slot]], state: State, after: list[State]) -> Iterator[Response]:
        name = state[0]
        states = {passed[0]: passed for passed in after}
        for slot in slots[state]:
            into: list[tuple[str, Slot | None]] = []
            for read in self.graph.reads(name):
                if read == self.target:
                    into.append((read, None))
                elif read in states:
                    into.append((read, self._arrive(slots, states[read], name)))
            yield Response(slot=slot, method=self._method(slot), into=tuple(into))

    def _method(self, slot: Slot) -> Method:
        """The edge's method; one of ``steps=0`` takes all updates since the target's last step."""
        edge = self.graph.edge(*slot.edge)
        if edge is None or edge.method is None:
            raise ValueError(f"edge {slot.edge} has no method")
        if edge.method.steps is None:
            return edge.method
        lower, target = self.graph.problem(slot.problem), self.graph.problem(self.target)
        whole = max(1, (target.period or 1) // ((lower.period or 1) * lower.accumulation))
        most = int(dict(edge.method.solver.options).get("truncate") or 0)
        steps = edge.method.steps or whole
        return edge.method.with_steps(min(steps, most) if most else steps)
