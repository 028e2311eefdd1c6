"""A check as a picture: the error of every method against its cost."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from betty.backends.torch.check import Check, EdgeCheck, Row
from betty.ir.diagnostics import BettyError
from betty.ir.methods import INVERSES, PRODUCTS, UNPAIRED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
FLOOR = 1e-16
"""Where an error of zero is drawn."""
ADVISED = "#009e73"
COLOURS = ("#0072b2", "#e69f00", "#cc79a7", "#56b4e9", "#d55e00", "#7a5195", "#8c6d31", "#222222", "#9aa0a6", "#bc5090")
"""One for each way to solve, in the order of the tables; they start again where there are more."""
MARKERS = "osv^<>"
"""One for each product, in the order of the table."""
ALONE = "D"
"""For methods without a product."""
APART = 0.045
"""Distance of two lines of labels, in heights of a panel."""

Place = tuple[float, float]
"""Across and up, in parts of a panel."""


def plot(check: Check, path: str | Path | None = None) -> Figure:
    """Draw error against cost, both logarithmic, a panel for each edge; low and left is good.

    Args:
        check: What was found.
        path: Where to write the picture, as ``.png``, ``.svg`` or ``.pdf``; nowhere without.

    Raises:
        BettyError: matplotlib is not installed, the ending is none of these, or the file cannot be written.
    """
    check_possible(path)
    figure = _figure(check)
    if path is not None:
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise BettyError(f"{path} cannot be written: {error.strerror or error}") from None
    return figure


def check_possible(path: str | Path | None) -> None:
    """Whether a plot can be drawn and written to a file of this name.

    Raises:
        BettyError: matplotlib is not installed, or the ending is unknown.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise BettyError("plots need matplotlib: pip install 'betty-mlo[plot]'") from None
    if path is not None and Path(path).suffix.lower() not in ENDINGS:
        raise BettyError(f"a plot ends in one of {', '.join(ENDINGS)}, not {Path(path).name!r}")


def _figure(check: Check) -> Figure:
    from matplotlib.figure import Figure

    class Shown(Figure):
        """A figure that notebooks show even where pyplot was never imported."""

        def _repr_png_(self) -> bytes:
            self.savefig(buffer := io.BytesIO(), format="png")
            return buffer.getvalue()

    edges = [edge for edge in check.edges if any(_drawable(row) for row in edge.rows)]
    # Made by hand, a figure draws with Agg and opens no window.
    figure = Shown(figsize=(8.6, 5.4 * max(len(edges), 1)), layout="constrained")
    panels: Any = figure.subplots(max(len(edges), 1), 1, squeeze=False)[:, 0]
    for axis, edge in zip(panels, edges, strict=False):
        _panel(axis, edge, check.tolerance)
    return figure


def _drawable(row: Row) -> bool:
    return row.ran and math.isfinite(row.error) and math.isfinite(row.steps)


def _panel(axis: Any, edge: EdgeCheck, tolerance: float) -> None:
    """Colours tell how it is solved, markers by which product; names stand at those points that matter."""
    rows = [row for row in edge.rows if _drawable(row)]
    axis.set(xscale="log", yscale="log", title=edge.name)
    axis.set(xlabel="time of a response in steps of the lower", ylabel="relative error, the largest over the points")
    axis.grid(which="major", color="#e5e7eb", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.axhspan(FLOOR / 10, tolerance, color=ADVISED, alpha=0.06, linewidth=0)
    for row in rows:
        colour, marker = _look(row)
        place = ([row.steps], [max(row.error, FLOOR)])
        axis.scatter(*place, s=42, color=colour, marker=marker, zorder=3, linewidth=0.6, edgecolor="white")
        if _called(edge, row) != row.name:
            axis.scatter(*place, s=190, facecolor="none", edgecolor=colour, zorder=2, linewidth=1.4)
    _frame(axis, rows, tolerance)
    _labels(axis, edge, rows)
    _legend(axis, rows)


def _look(row: Row) -> tuple[str, str]:
    names = [*INVERSES, *UNPAIRED]
    colour = COLOURS[names.index(row.method.solver.name) % len(COLOURS)]
    if row.method.product is None:
        return colour, ALONE
    return colour, MARKERS[list(PRODUCTS).index(row.method.product.name) % len(MARKERS)]


def _legend(axis: Any, rows: list[Row]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    solvers = {row.method.solver.name: _look(row)[0] for row in rows}
    products = {row.method.product.name: _look(row)[1] for row in rows if row.method.product is not None}
    alone = {row.method.solver.name for row in rows if row.method.product is None}

    def mark(marker: str, colour: str, label: str) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, markersize=6, color=colour, label=label)

    entries: list[Any] = [
        mark(ALONE, colour, name) if name in alone else Patch(color=colour, label=name)
        for name, colour in solvers.items()
    ]
    entries += [mark(marker, "#6b7280", f"+ {name}") for name, marker in products.items()]
    axis.legend(handles=entries, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


def _frame(axis: Any, rows: list[Row], tolerance: float) -> None:
    """Some room around the points, and the tolerance always in view."""
    costs, errors = [row.steps for row in rows], [max(row.error, FLOOR) for row in rows]
    low, high = min([*errors, tolerance]), max([*errors, tolerance])
    around = (max(costs) / min(costs)) ** 0.08 * 1.2
    axis.set_xlim(min(costs) / around, max(costs) * around)
    axis.set_ylim(low / (high / low) ** 0.06, high * (high / low) ** 0.06)


def _labels(axis: Any, edge: EdgeCheck, rows: list[Row]) -> None:
    """The names of the program's own method, of the recommended one, and of all that no other beats in both."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()

    def place(row: Row) -> Place:
        across = math.log10(row.steps / left) / math.log10(right / left)
        return across, math.log10(max(row.error, FLOOR) / bottom) / math.log10(top / bottom)

    taken = [place(row) for row in rows]
    named = [row for row in rows if _called(edge, row) != row.name or not any(_beats(one, row) for one in rows)]
    for row in sorted(named, key=lambda one: (_called(edge, one) == one.name, one.error, one.steps)):
        name, matters = _called(edge, row), _called(edge, row) != row.name
        width = len(name) * (0.0125 if matters else 0.0112)
        x, y = _free(place(row), width, taken)
        taken += [(x + part * width / 8, y) for part in range(9)]
        axis.text(
            x,
            y,
            name,
            transform=axis.transAxes,
            va="center",
            fontsize=8.5,
            weight="bold" if matters else "normal",
        )


def _beats(one: Row, other: Row) -> bool:
    better = one.error < other.error or one.steps < other.steps
    return better and one.error <= other.error and one.steps <= other.steps


def _free(point: Place, width: float, taken: list[Place]) -> Place:
    """Where a label of this width begins: near its point, in the panel, and on nothing else if that can be."""
    x, y = point
    steps = [0.0, *(sign * APART * count for count in range(1, 5) for sign in (-1, 1))]
    tries = [(start, y + step) for step in steps for start in (x + 0.025, x - 0.025 - width, x - width / 2)]
    inside = [(start, up) for start, up in tries if 0 <= start <= 1 - width and 0.02 <= up <= 0.98]
    for start, up in inside:
        if not any(
            start - 0.012 <= one[0] <= start + width + 0.012 and abs(one[1] - up) < 0.8 * APART for one in taken
        ):
            return start, up
    return inside[0] if inside else (x + 0.025, y)


def _called(edge: EdgeCheck, row: Row) -> str:
    if edge.recommendation is not None and edge.recommendation.method == row.method:
        return row.name + (" (as now, recommended)" if row.chosen else " (recommended)")
    return row.name + (" (as now)" if row.chosen else "")
