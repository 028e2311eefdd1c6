"""Programs of scalar quadratics in exact arithmetic, and two ways to their hypergradients.

Problem x has the loss ``h_x/2 θ_x² + θ_x Σ_y c_xy θ_y`` over the problems y that it reads. Its solution moves with one
of them by ``-c_xy / h_x``, so a method that solves exactly answers an adjoint λ with ``q = λ / h_x`` and passes
``-c_xy q`` on. What a target's loss looks like matters only through its partial derivatives at the point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import networkx as nx
from hypothesis import strategies as st

from betty.ir.graph import Graph
from betty.ir.passes.levels import Levels
from betty.ir.passes.lower import lower
from betty.ir.passes.schedule import Schedule
from betty.ir.plan import Differentiate, Plan, Step

rationals = st.builds(Fraction, st.integers(-9, 9), st.integers(1, 5))
curvatures = st.builds(Fraction, st.integers(1, 9), st.integers(1, 5))


@dataclass(frozen=True)
class Quadratics:
    """Curvatures ``h_x``, couplings ``c_xy``, and partial derivatives ``∂L_x/∂θ_y``."""

    curvature: dict[str, Fraction]
    coupling: dict[tuple[str, str], Fraction]
    partial: dict[tuple[str, str], Fraction]


@st.composite
def quadratics(draw: st.DrawFn, graph: Graph) -> Quadratics:
    names = [problem.name for problem in graph.problems]
    readings = [(name, read) for name in names for read in graph.reads(name)]
    return Quadratics(
        curvature={name: draw(curvatures) for name in names},
        coupling={pair: draw(rationals) for pair in readings},
        partial={pair: draw(rationals) for pair in (*readings, *((name, name) for name in names))},
    )


def lowered(graph: Graph) -> Plan:
    """The plan of a graph whose edges have methods; random flows need not pass ``check``."""
    return lower(Schedule().apply(Levels().apply(graph)))


def followed(step: Step, values: Quadratics) -> Fraction:
    """The hypergradient that the instructions of a step give; every slot is filled, consumed once and left."""
    target = step.problem
    slots: dict[str, Fraction] = {}
    for item in step.instructions:
        if isinstance(item, Differentiate):
            slots = {slot: values.partial[target, problem] for problem, slot in item.adjoints}
    total, consumed = values.partial[target, target], set[str]()
    for response in step.responses:
        q = slots.pop(response.slot) / values.curvature[response.problem]
        consumed.add(response.slot)
        for read, slot in response.into:
            gain = -values.coupling[response.problem, read] * q
            if slot:
                assert slot not in consumed, f"{slot} gains after it was consumed"
                slots[slot] = slots.get(slot, Fraction(0)) + gain
            else:
                assert read == target
                total += gain
    assert not slots, f"nobody answers {sorted(slots)}"
    return total


def below(graph: Graph, target: str) -> list[str]:
    """What responds to a target: everything below a problem that acts on something."""
    acts = any(edge.flow.down for edge in graph.edges if edge.upper == target)
    return sorted(nx.ancestors(graph.digraph, target)) if acts else []


def has_knot(graph: Graph, target: str) -> bool:
    found = below(graph, target)
    reads = nx.DiGraph((x, y) for x in found for y in graph.reads(x) if y in found)
    return not nx.is_directed_acyclic_graph(reads)


def total_derivative(graph: Graph, values: Quadratics, target: str) -> Fraction:
    """``dL/dθ`` of the target where all stationarity conditions below it hold together.

    Differentiating ``h_x θ_x + Σ_y c_xy θ_y = 0`` by the target's parameter gives one linear equation for each
    problem: ``h_x θ_x' + Σ_y c_xy θ_y' = -c_x,target``, y running over what lies below as well.
    """
    names = below(graph, target)
    rows = [[*_row(graph, values, name, names), -_coupling(values, name, target)] for name in names]
    moved = dict(zip(names, _solved(rows), strict=True))
    answers = (values.partial[target, name] * moved[name] for name in graph.reads(target) if name in moved)
    return values.partial[target, target] + sum(answers, Fraction(0))


def _coupling(values: Quadratics, name: str, read: str) -> Fraction:
    return values.coupling.get((name, read), Fraction(0))


def _row(graph: Graph, values: Quadratics, name: str, names: list[str]) -> Iterator[Fraction]:
    for other in names:
        yield values.curvature[name] if other == name else _coupling(values, name, other)


def _solved(rows: list[list[Fraction]]) -> list[Fraction]:
    """Gauss and Jordan's elimination of an augmented matrix."""
    for index in range(len(rows)):
        pivot = next(row for row in range(index, len(rows)) if rows[row][index])
        rows[index], rows[pivot] = rows[pivot], rows[index]
        rows[index] = [value / rows[index][index] for value in rows[index]]
        for other, row in enumerate(rows):
            if other != index and row[index]:
                rows[other] = [a - row[index] * b for a, b in zip(row, rows[index], strict=True)]
    return [row[-1] for row in rows]
