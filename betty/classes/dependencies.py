"""Who is above and who is below whom: the dependencies of a class program as edges of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from betty.ir.diagnostics import Diagnostic, GraphError, listing, nearest
from betty.ir.graph import Edge
from betty.ir.records import Flow
from betty.problems.problem import Problem

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Dependencies:
    """Pairs of names as a program has declared them.

    Args:
        down: Pairs of an upper and a lower whose loss reads it (``u2l``).
        up: Pairs of a lower and an upper whose loss reads it (``l2u``).
    """

    down: Pairs = ()
    up: Pairs = ()

    def edges(self, problems: Mapping[str, Problem]) -> tuple[Edge, ...]:
        """One edge a pair of problems; every edge of a lower has the lower's own method."""
        flows: dict[tuple[str, str], Flow] = {}
        for upper, lower in self.down:
            flows[upper, lower] = Flow.DOWN
        for lower, upper in self.up:
            flows[upper, lower] = Flow.BOTH if (upper, lower) in flows else Flow.UP
        return tuple(
            Edge(upper=upper, lower=lower, flow=flow, method=problems[lower].to_method())
            for (upper, lower), flow in flows.items()
        )

    def as_given(self, problems: Mapping[str, Problem]) -> dict[str, dict[Problem, list[Problem]]]:
        """``{"u2l": {upper: [lower, ...]}, "l2u": {lower: [upper, ...]}}``."""
        found: dict[str, dict[Problem, list[Problem]]] = {"u2l": {}, "l2u": {}}
        for kind, pairs in (("u2l", self.down), ("l2u", self.up)):
            for first, second in pairs:
                found[kind].setdefault(problems[first], []).append(problems[second])
        return found

    def connect(self, problems: Mapping[str, Problem]) -> list[Problem]:
        """Tell every problem its parents and children; the leaves, in the order of the problems."""
        for problem in problems.values():
            problem.clear_dependencies()
        for lower, upper in self.up:
            problems[lower].add_parent(problems[upper])
            problems[upper].add_child(problems[lower])
        for problem in problems.values():
            problem.leaf = not problem.children
        return [problem for problem in problems.values() if problem.leaf]

    def paths(self, name: str) -> list[list[str]]:
        """Ways from a problem to a lower that it acts on, seen from the end, and back: ``[U, ..., L, U]``."""
        return [
            [*reversed(way), name] for upper, lower in self.down if upper == name for way in self._ways([lower], name)
        ]

    def _ways(self, way: list[str], end: str) -> Iterator[list[str]]:
        if way[-1] == end:
            yield way
            return
        for lower, upper in self.up:
            if lower == way[-1]:
                yield from self._ways([*way, upper], end)


def parse(given: Mapping[str, Any] | None, problems: Sequence[Problem]) -> Dependencies:
    """Check ``{"u2l": {upper: [lower, ...]}, "l2u": {lower: [upper, ...]}}``.

    Raises:
        GraphError: Everything wrong with it.
    """
    given = given or {}
    wrong = [_unknown_key(str(key)) for key in given if key not in ("u2l", "l2u")]
    found: dict[str, list[tuple[str, str]]] = {"u2l": [], "l2u": []}
    for kind, pairs in found.items():
        entries = given.get(kind) or {}
        if not isinstance(entries, Mapping):
            wrong.append(_wrong(kind, f"found {type(entries).__name__}", "a dict of problems and lists of problems"))
            continue
        for first, others in entries.items():
            for second in others if isinstance(others, list | tuple | set) else [others]:
                pair = [_name(kind, one, problems, wrong) for one in (first, second)]
                if "" not in pair:
                    _take(kind, (pair[0], pair[1]), pairs, wrong)
    if wrong:
        raise GraphError(wrong)
    return Dependencies(tuple(found["u2l"]), tuple(found["l2u"]))


def _take(kind: str, pair: tuple[str, str], known: list[tuple[str, str]], wrong: list[Diagnostic]) -> None:
    if pair[0] == pair[1]:
        wrong.append(_wrong(kind, f"{pair[0]!r} stands on both sides", "two different problems"))
    elif pair not in known:
        known.append(pair)


def _name(kind: str, one: Any, problems: Sequence[Problem], wrong: list[Diagnostic]) -> str:
    """The name of a problem that belongs to the program; empty, with a diagnostic, for anything else."""
    if any(one is problem for problem in problems):
        return str(one.name)
    names = [problem.name for problem in problems]
    if isinstance(one, Problem):
        message, hint = f"{one.name!r} is not among the problems of the engine", f"problems=[..., {one.name}]"
    else:
        message = f"{one!r} is no problem"
        hint = nearest(one, names) if isinstance(one, str) else ""
    wrong.append(_wrong(kind, message, f"one of {listing(names)}", hint))
    return ""


def _unknown_key(key: str) -> Diagnostic:
    return Diagnostic(
        code="unknown-dependency",
        field=("dependencies",),
        message=f"unknown key {key!r}",
        expected="u2l and l2u",
        hint=nearest(key, ["u2l", "l2u"]),
    )


def _wrong(kind: str, message: str, expected: str, hint: str = "") -> Diagnostic:
    return Diagnostic(
        code="bad-dependency", field=("dependencies", kind), message=message, expected=expected, hint=hint
    )
