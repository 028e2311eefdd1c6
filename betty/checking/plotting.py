"""A check as a picture: the error of every method against its cost."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from betty.backends.torch.check import Check, EdgeCheck, Row
from betty.ir.diagnostics import BettyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
FLOOR = 1e-16
"""Where an error of zero is drawn."""
OWN, ADVISED, OTHER = "#d55e00", "#009e73", "#6b7280"
MOST_CROWDED = 0.028
"""Least distance of two labels, in heights of a panel."""


def plot(check: Check, path: str | Path | None = None) -> Figure:
    """Draw error against cost, both logarithmic, a panel for each edge; low and left is good.

    Args:
        check: What was found.
        path: Where to write the picture, as ``.png``, ``.svg`` or ``.pdf``; nowhere without.

    Raises:
        ImportError: matplotlib is not installed; the message says how to install it.
        BettyError: The ending is none of these, or the file cannot be written.
    """
    if path is not None and Path(path).suffix.lower() not in ENDINGS:
        raise BettyError(f"a plot ends in one of {', '.join(ENDINGS)}, not {Path(path).name!r}")
    figure = _figure(check)
    if path is not None:
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise BettyError(f"{path} cannot be written: {error.strerror or error}") from None
    return figure


def _figure(check: Check) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib: pip install 'betty-mlo[plot]'") from None

    class Shown(Figure):
        """A figure that notebooks show even where pyplot was never imported."""

        def _repr_png_(self) -> bytes:
            self.savefig(buffer := io.BytesIO(), format="png")
            return buffer.getvalue()

    edges = [edge for edge in check.edges if any(_drawable(row) for row in edge.rows)]
    # Made by hand, a figure draws with Agg and opens no window.
    figure = Shown(figsize=(8.0, 5.4 * max(len(edges), 1)), layout="constrained")
    panels: Any = figure.subplots(max(len(edges), 1), 1, squeeze=False)[:, 0]
    for axis, edge in zip(panels, edges, strict=False):
        _panel(axis, edge, check.tolerance)
    return figure


def _drawable(row: Row) -> bool:
    return row.ran and math.isfinite(row.error) and math.isfinite(row.steps)


def _panel(axis: Any, edge: EdgeCheck, tolerance: float) -> None:
    rows = [row for row in edge.rows if _drawable(row)]
    axis.set(xscale="log", yscale="log", title=edge.name)
    axis.set(xlabel="time of a response in steps of the lower", ylabel="relative error, the largest over the points")
    axis.grid(which="major", color="#e5e7eb", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.axhspan(FLOOR / 10, tolerance, color=ADVISED, alpha=0.06, linewidth=0)
    for row in rows:
        colour, size = _look(edge, row)
        axis.scatter([row.steps], [max(row.error, FLOOR)], s=size, color=colour, zorder=3, linewidth=0)
    _frame(axis, rows, tolerance)
    _labels(axis, edge, rows)


def _look(edge: EdgeCheck, row: Row) -> tuple[str, float]:
    if edge.recommendation is not None and edge.recommendation.method == row.method:
        return ADVISED, 70.0
    return (OWN, 70.0) if row.chosen else (OTHER, 26.0)


def _frame(axis: Any, rows: list[Row], tolerance: float) -> None:
    """Room on the right for the labels, and the tolerance always in view."""
    costs, errors = [row.steps for row in rows], [max(row.error, FLOOR) for row in rows]
    low, high = min([*errors, tolerance]), max([*errors, tolerance])
    span = math.log10(max(costs) / min(costs)) + 0.5
    axis.set_xlim(min(costs) / 10 ** (0.06 * span), max(costs) * 10 ** (0.5 * span))
    axis.set_ylim(low / 3, high * 3)


def _labels(axis: Any, edge: EdgeCheck, rows: list[Row]) -> None:
    """Names right of their points; a label that would lie on another moves up or down, tied by a thin line."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    width, height = math.log10(right / left), math.log10(top / bottom)
    taken: list[tuple[float, float, float]] = []
    for row in sorted(rows, key=lambda one: (one.error, one.steps)):
        x = math.log10(row.steps / left) / width
        y = math.log10(max(row.error, FLOOR) / bottom) / height
        name, (colour, size) = _called(edge, row), _look(edge, row)
        start, end = x + 0.018, x + 0.018 + 0.0112 * len(name)
        place = _free(y, start, end, taken)
        taken.append((place, start, end))
        tied = (
            {"arrowprops": {"arrowstyle": "-", "color": "#9ca3af", "linewidth": 0.5}} if abs(place - y) > 0.02 else {}
        )
        axis.annotate(
            name,
            (row.steps, max(row.error, FLOOR)),
            (start, place),
            textcoords="axes fraction",
            va="center",
            fontsize=7.5,
            color=colour if size > 50 else "#374151",
            weight="bold" if size > 50 else "normal",
            **tied,
        )


def _free(y: float, start: float, end: float, taken: list[tuple[float, float, float]]) -> float:
    """The height nearest to ``y`` at which a label from ``start`` to ``end`` lies on no other."""
    tries = [y + sign * step * MOST_CROWDED for step in range(40) for sign in (1, -1)]
    for place in tries:
        if not 0.01 <= place <= 0.99:
            continue
        beside = (one for one in taken if one[1] < end and start < one[2])
        if all(abs(place - one[0]) >= MOST_CROWDED - 1e-9 for one in beside):
            return place
    return y


def _called(edge: EdgeCheck, row: Row) -> str:
    if edge.recommendation is not None and edge.recommendation.method == row.method:
        return row.name + (" (as now, recommended)" if row.chosen else " (recommended)")
    return row.name + (" (as now)" if row.chosen else "")
