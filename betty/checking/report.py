"""What ``Engine.check`` returns: a report that prints, draws and writes itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from betty.backends.torch.check import Check, EdgeCheck, Flag, Recommendation, Row
from betty.checking.spelling import to_value
from betty.checking.table import page, text
from betty.ir.diagnostics import BettyError, listing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 1
"""Version of the JSON document; it grows when a key changes its meaning or goes."""


class Report:
    """How exact every method is on every edge of a program, what it costs, and which one to take.

    In a notebook the last expression ``engine.check()`` shows the tables.
    """

    def __init__(self, check: Check) -> None:
        self.check = check

    @property
    def edges(self) -> tuple[EdgeCheck, ...]:
        """What was found, edge by edge."""
        return self.check.edges

    @property
    def rows(self) -> list[Row]:
        """All methods of all edges."""
        return [row for edge in self.edges for row in edge.rows]

    @property
    def flags(self) -> list[Flag]:
        """What makes methods wrong on this program."""
        return [flag for edge in self.edges for flag in edge.flags]

    def edge(self, upper: str, lower: str) -> EdgeCheck:
        """What was found about one edge.

        Raises:
            BettyError: No such edge was checked.
        """
        for edge in self.edges:
            if (edge.upper, edge.lower) == (upper, lower):
                return edge
        raise BettyError(f"no edge {upper} -> {lower} was checked; there are {listing([e.name for e in self.edges])}")

    def recommendation(self, upper: str, lower: str) -> Recommendation | None:
        """The method to take for an edge, and why; ``None`` where none gave a finite hypergradient.

        Raises:
            BettyError: No such edge was checked.
        """
        return self.edge(upper, lower).recommendation

    def to_json(self) -> str:
        """The whole report as one JSON document; its keys are in the documentation of the command line."""
        return json.dumps(as_data(self.check), indent=2, ensure_ascii=False)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Error against cost, a panel for each edge; written to ``path`` where one is given.

        Raises:
            BettyError: matplotlib is not installed, or the file cannot be written.
        """
        from betty.checking.plotting import plot

        return plot(self.check, path)

    def __repr__(self) -> str:
        return text(self.check)

    def _repr_html_(self) -> str:
        return page(self.check)


def as_data(check: Check) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "format": FORMAT,
        "program": check.program,
        "iterations": check.iterations,
        "seed": check.seed,
        "tolerance": check.tolerance,
        "seconds": check.seconds,
        "edges": [_edge(edge) for edge in check.edges],
        "without_response": list(check.silent),
    }


def _edge(edge: EdgeCheck) -> dict[str, Any]:
    return {
        "upper": edge.upper,
        "lower": edge.lower,
        "target": edge.target,
        "reference": edge.reference,
        "points": list(edge.points),
        "methods": [_row(row) for row in edge.rows],
        "flags": [
            {
                "code": flag.code,
                "iteration": flag.iteration,
                "value": _number(flag.value),
                "message": flag.message,
                "advice": flag.advice,
            }
            for flag in edge.flags
        ],
        "recommendation": _recommendation(edge.recommendation),
        "notes": list(edge.notes),
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "method": to_value(row.method),
        "chosen": row.chosen,
        "ran": row.ran,
        "reason": row.reason,
        "cosine": _number(row.cosine),
        "error": _number(row.error),
        "steps": _number(row.steps),
        "seconds": _number(row.seconds),
        "bytes": row.bytes,
        "points": [
            {
                "iteration": one.iteration,
                "cosine": _number(one.cosine),
                "error": _number(one.error),
                "steps": _number(one.steps),
                "seconds": _number(one.seconds),
                "bytes": one.bytes,
            }
            for one in row.measurements
        ],
    }


def _recommendation(found: Recommendation | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "name": found.name,
        "method": to_value(found.method),
        "change": found.change,
        "reason": found.reason,
    }


def _number(value: float) -> float | None:
    """JSON has neither infinities nor what is not a number."""
    return value if math.isfinite(value) else None
