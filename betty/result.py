"""What a run returns: the last metrics, their history as a table, and a plot of it."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10
"""Rows at either end of a table that is too long to be shown whole."""


class History(Sequence[Mapping[str, float]]):
    """Metrics by step: a row is a mapping with ``iteration`` and whatever was recorded in that iteration.

    Losses and metrics of a problem are called ``problem.metric``, those of the validation ``validate.metric``.
    """

    def __init__(self, rows: Sequence[Mapping[str, float]] = ()) -> None:
        self._rows = [dict(row) for row in rows]

    def append(self, iteration: int, row: Mapping[str, float]) -> None:
        self._rows.append({"iteration": iteration, **row})

    def cut(self, iteration: int) -> None:
        """Drop the rows of later iterations."""
        self._rows = [row for row in self._rows if row["iteration"] <= iteration]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, float]: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, float] | History:
        return History(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __iter__(self) -> Iterator[Mapping[str, float]]:
        return iter(self._rows)

    @property
    def columns(self) -> list[str]:
        """Names of all columns, ``iteration`` first, in the order in which they came up."""
        return list(dict.fromkeys(["iteration", *(name for row in self._rows for name in row)]))

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """Iterations at which ``name`` was recorded, and its values.

        Raises:
            KeyError: There is no such column; the message lists those that there are.
        """
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; there are {', '.join(self.columns)}")
        pairs = [(int(row["iteration"]), row[name]) for row in self._rows if name in row]
        return [iteration for iteration, _ in pairs], [value for _, value in pairs]

    def last(self) -> dict[str, float]:
        """The latest value of every column but ``iteration``."""
        found: dict[str, float] = {}
        for row in self._rows:
            found.update((name, value) for name, value in row.items() if name != "iteration")
        return found

    def __repr__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head, *rows = self._cells()
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"

    def _cells(self) -> list[list[str]]:
        columns = self.columns
        rows = [[number(row.get(name)) for name in columns] for row in self._rows]
        if len(rows) > 2 * SHOWN:
            rows = [*rows[:SHOWN], ["…"] * len(columns), *rows[-SHOWN:]]
        return [columns, *rows]


@dataclass(frozen=True, repr=False)
class Result:
    """What a run has come to.

    Args:
        metrics: The latest value of every metric by name.
        history: Metrics by step.
        iterations: Iterations done since the engine was made.
        reason: ``finished``, ``stopped early`` or ``interrupted``.
        seconds: Wall-clock time of the run.
        folder: Where the run was written to; ``None`` if nowhere.
    """

    metrics: Mapping[str, float]
    history: History
    iterations: int
    reason: str
    seconds: float
    folder: Path | None = None
    profile: str = field(default="", repr=False)
    """The plan with what was measured of every instruction, where it was asked for."""

    def plot(self, names: Sequence[str] | None = None) -> Figure:
        """Curves over iterations, one panel for each problem and for the validation.

        Args:
            names: Columns to show; all by default.

        Raises:
            ImportError: matplotlib is not installed; the message says how to install it.
        """
        return plot(self.history, names)

    def __repr__(self) -> str:
        end = "" if self.reason == "finished" else f", {self.reason}"
        metrics = "  ".join(f"{name} {number(value)}" for name, value in self.metrics.items())
        return f"{self.iterations} iterations in {self.seconds:.1f} s{end}   {metrics}"


def plot(history: History, names: Sequence[str] | None = None) -> Figure:
    """See :meth:`Result.plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib: pip install 'betty-mlo[plot]'") from None
    shown = list(names) if names is not None else [name for name in history.columns if name != "iteration"]
    panels: dict[str, list[str]] = {}
    for name in shown:
        panels.setdefault(name.partition(".")[0], []).append(name)

    class Shown(Figure):
        """A figure that notebooks show even where pyplot, which would teach them to, was never imported."""

        def _repr_png_(self) -> bytes:
            self.savefig(buffer := io.BytesIO(), format="png")
            return buffer.getvalue()

    figure = Shown(figsize=(5.0 * max(len(panels), 1), 3.2), layout="constrained")
    axes: Any = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
    for axis, (panel, members) in zip(axes, panels.items(), strict=False):
        for name in members:
            iterations, values = history.column(name)
            alone = "o" if len(values) == 1 else None  # a line through one point is invisible
            axis.plot(iterations, values, label=name.partition(".")[2] or name, linewidth=1.4, marker=alone)
        axis.set(title=panel, xlabel="iteration")
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def number(value: float | None) -> str:
    """A metric in at most six significant digits; empty for ``None``."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"
