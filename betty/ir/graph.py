"""The dataflow graph of a multilevel program: problems, and who is upper and lower to whom.

A graph is a value: it is never edited, iteration follows the order of declaration, and a rewrite that changes
nothing returns the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import networkx as nx

from betty.ir.methods import Method
from betty.ir.records import Facts, Flow, Weights
from betty.ir.valuations import ValuationMethod

SINGLE = "single"
"""The strategy of a program that one process trains."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One optimisation problem.

    Args:
        name: Unique name.
        loss: What the loss is called, for people.
        reads: Problems that the loss is known to read, its own name included where it does; ``None`` if unknown.
        update_reads: Problems that its updates read beside the loss: those whose parameters are hyperparameters of its
            optimiser, and the one whose parameters it starts from.
        optimizer: Short name of the optimiser's class; empty where the problem is never updated.
        unroll: Updates of this problem between two updates of an upper.
        accumulation: Micro-batches per update.
        warm_up: Micro-batches before its uppers begin to step.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``fp64``.
        gradient_clipping: Largest norm of the gradient, or ``None``.
        recomputes: Whether activations are computed again in the backward pass.
        facts: What a trace found; ``None`` before or without one.
        weights: Of a problem that is one weight for each example of its lower, and never trained; ``None`` for others.
        level: Longest chain of lowers below it; set by the pass ``levels``.
        period: Iterations between two of its steps; set by the pass ``schedule``.
    """

    name: str
    loss: str = ""
    reads: tuple[str, ...] | None = None
    update_reads: tuple[str, ...] = ()
    optimizer: str = ""
    unroll: int = 1
    accumulation: int = 1
    warm_up: int = 0
    precision: str = "fp32"
    gradient_clipping: float | None = None
    recomputes: bool = False
    facts: Facts | None = None
    weights: Weights | None = None
    level: int | None = None
    period: int | None = None


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An upper and a lower problem, the flows between them and the method of the lower's response.

    Args:
        upper: Name of the upper problem.
        lower: Name of the lower problem.
        flow: ``down``, ``up`` or ``both``.
        method: How the lower's response is approximated; ``None`` asks the pass ``methods`` to choose.
        valuation: How examples are valued, where the upper is their weights; ``method`` is ``None`` then.
        reason: Why that method was chosen; empty where the user chose it.
    """

    upper: str
    lower: str
    flow: Flow = Flow.BOTH
    method: Method | None = None
    valuation: ValuationMethod | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.upper} -> {self.lower}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for the whole program."""

    iterations: int = 1
    device: str = "cpu"
    precision: str = "fp32"
    seed: int = 0
    roll_back: bool = False
    """Whether updates that lead up to a step of a problem above are taken back after it."""
    strategy: str = SINGLE
    """How the work is spread: over a single process, or over several and how."""
    local_adjoints: bool = False
    """Whether each of several processes answers its own adjoints, where a method is linear in them."""
    reason: str = ""
    """Why it is spread so, where the compiler has chosen."""
    memory: int | None = None
    """Bytes that the program may take; ``auto`` chooses methods that fit."""
    compile: str = ""
    """What compiles losses and products; empty where they run as they are written."""


@dataclass(frozen=True, eq=True)
class Graph:
    """An immutable multilevel program over ``networkx.DiGraph``.

    Edges of ``digraph`` run from lower to upper and carry the :class:`Edge` under the key ``edge``. Names must be
    unique and edges must join known, distinct problems, at most one edge to a pair; everything else (cycles,
    missing flows) is for the pass ``check`` to report.
    """

    name: str
    problems: tuple[Problem, ...] = ()
    edges: tuple[Edge, ...] = ()
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", tuple(self.problems))
        object.__setattr__(self, "edges", tuple(self.edges))
        names = [problem.name for problem in self.problems]
        if len(set(names)) != len(names):
            raise ValueError("problem names must be unique")
        pairs = [(edge.upper, edge.lower) for edge in self.edges]
        if any(upper == lower for upper, lower in pairs):
            raise ValueError("an edge must join two different problems")
        if len(set(pairs)) != len(pairs):
            raise ValueError("at most one edge may join a pair of problems")
        if unknown := {name for pair in pairs for name in pair} - set(names):
            raise ValueError(f"edges name unknown problems: {sorted(unknown)}")

    @cached_property
    def digraph(self) -> nx.DiGraph[str]:
        digraph: nx.DiGraph[str] = nx.DiGraph(name=self.name)
        digraph.add_nodes_from((problem.name, {"problem": problem}) for problem in self.problems)
        digraph.add_edges_from((edge.lower, edge.upper, {"edge": edge}) for edge in self.edges)
        frozen: nx.DiGraph[str] = nx.freeze(digraph)
        return frozen

    @cached_property
    def _index(self) -> dict[str, Problem]:
        return {problem.name: problem for problem in self.problems}

    @cached_property
    def _reads(self) -> dict[str, tuple[str, ...]]:
        reads: dict[str, list[str]] = {problem.name: [] for problem in self.problems}
        for edge in self.edges:
            if edge.flow.down:
                reads[edge.lower].append(edge.upper)
            if edge.flow.up:
                reads[edge.upper].append(edge.lower)
        return {name: tuple(found) for name, found in reads.items()}

    @cached_property
    def _readers(self) -> dict[str, tuple[str, ...]]:
        readers: dict[str, list[str]] = {problem.name: [] for problem in self.problems}
        for name, found in self._reads.items():
            for other in found:
                readers[other].append(name)
        return {name: tuple(found) for name, found in readers.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def problem(self, name: str) -> Problem:
        return self._index[name]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {problem.name: index for index, problem in enumerate(self.problems)}

    def position(self, name: str) -> int:
        """Where ``name`` stands in the order of declaration."""
        return self._positions[name]

    def edge(self, upper: str, lower: str) -> Edge | None:
        data: dict[str, Any] | None = self.digraph.get_edge_data(lower, upper)
        return data["edge"] if data else None

    def uppers(self, name: str) -> tuple[str, ...]:
        """Problems that are upper to ``name``, in the order of the edges."""
        return tuple(self.digraph.successors(name))

    def lowers(self, name: str) -> tuple[str, ...]:
        """Problems that are lower to ``name``, in the order of the edges."""
        return tuple(self.digraph.predecessors(name))

    def reads(self, name: str) -> tuple[str, ...]:
        """Other problems whose parameters the loss of ``name``, or its updates, read, as the flows declare it."""
        return self._reads[name]

    def readers(self, name: str) -> tuple[str, ...]:
        """Other problems whose losses read the parameters of ``name``."""
        return self._readers[name]

    @cached_property
    def valued(self) -> Edge | None:
        """The edge to an upper of example weights; ``None`` in a program that trains all its problems."""
        return next((edge for edge in self.edges if self.problem(edge.upper).weights is not None), None)

    @property
    def trained(self) -> Graph:
        """The graph without example weights; the same object where there are none."""
        weights = {problem.name for problem in self.problems if problem.weights is not None}
        kept = (edge for edge in self.edges if edge.upper not in weights and edge.lower not in weights)
        return self.with_parts((one for one in self.problems if one.name not in weights), kept)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Problems without lowers."""
        return tuple(problem.name for problem in self.problems if not self.lowers(problem.name))

    def map(
        self,
        problem: Callable[[Problem], Problem] = lambda same: same,
        edge: Callable[[Edge], Edge] = lambda same: same,
    ) -> Graph:
        """Rewrite every problem and edge; the same object where nothing changes."""
        return self.with_parts(map(problem, self.problems), map(edge, self.edges))

    def with_parts(self, problems: Iterable[Problem], edges: Iterable[Edge]) -> Graph:
        new_problems, new_edges = tuple(problems), tuple(edges)
        if new_problems == self.problems and new_edges == self.edges:
            return self
        return replace(self, problems=new_problems, edges=new_edges)
