"""A check as text: tables that stay within a hundred columns, with colours on a terminal and in notebooks."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from betty.backends.torch.check import Check, EdgeCheck, Flag, Row
from betty.checking.spelling import to_flow, to_value
from betty.ir.quantities import both, bytes_text, three_digits

WIDTH = 100
LEGEND = "* the program's own   > recommended   worst cosine and error over the points   steps of the lower"


def show(check: Check, console: Console) -> None:
    """Print a check on a console."""
    console.print(whole(check), width=min(console.width, WIDTH), soft_wrap=False)


def text(check: Check) -> str:
    """A check as plain text."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False)
    with console.capture() as captured:
        show(check, console)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def page(check: Check) -> str:
    """A check as HTML for notebooks."""
    console = Console(file=io.StringIO(), width=WIDTH, record=True, force_jupyter=False)
    show(check, console)
    style = "line-height: 1.35; overflow-x: auto"
    return console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')


def whole(check: Check) -> RenderableType:
    """Everything about a check, one part after another."""
    parts: list[RenderableType] = [_head(check)]
    for edge in check.edges:
        parts += ["", *_edge(edge)]
    if check.silent:
        parts += ["", Text(f"no hypergradient passes over {both(list(check.silent))}, so no method is used there")]
    return Group(*parts)


def _head(check: Check) -> Text:
    facts = (f"{check.iterations:,} iterations", f"seed {check.seed}", f"{check.seconds:.0f} s")
    return Text.assemble((f"check {check.program}", "bold"), "   " + " · ".join(facts))


def _edge(edge: EdgeCheck) -> Iterator[RenderableType]:
    yield Text(f"edge {edge.name}", style="bold")
    places = both([f"{point:,}" for point in edge.points])
    when = f"{'iterations' if len(edge.points) > 1 else 'iteration'} {places or 'none'}"
    rows = [("compared", f"hypergradient of {edge.target} at {when}"), ("with", edge.reference)]
    yield _labelled([*rows, *(("note", note) for note in edge.notes)])
    ran = sorted((row for row in edge.rows if row.ran), key=lambda row: (row.error, row.steps))
    if ran:
        yield ""
        yield _methods(edge, ran)
        yield Text(LEGEND, style="dim")
    if stuck := [row for row in edge.rows if not row.ran]:
        yield ""
        yield Text("cannot run here")
        yield _labelled([(row.name, row.reason) for row in stuck])
    if edge.flags:
        yield ""
        yield Text("flags")
        yield _flags(edge.flags)
    yield ""
    yield _recommendation(edge)


def _methods(edge: EdgeCheck, rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("method", max_width=48)
    for name in ("cosine", "error", "steps", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        advised = edge.recommendation is not None and edge.recommendation.method == row.method
        marks = ("*" if row.chosen else " ") + (">" if advised else " ")
        style = "bold green" if advised else "bold" if row.chosen else ""
        short = len(row.measurements) < len(edge.points)
        asterisk = f" (at {row.measurements[0].iteration:,} alone: slow)" if short else ""
        table.add_row(marks, described(row) + asterisk, *_cells(row), style=style)
    return table


def described(row: Row) -> str:
    """The halves of a method; the program's own with the options that it sets."""
    if not row.chosen:
        return row.name
    value = to_value(row.method)
    options = _options(value) if isinstance(value, dict) else {}
    return row.name + (" " + to_flow(options) if options else "")


def _options(value: dict[str, Any]) -> dict[str, Any]:
    halves = [one for key, one in value.items() if key in ("inverse", "product") and isinstance(one, dict)]
    found = {key: one for key, one in value.items() if key not in ("inverse", "product", "name")}
    for half in halves:
        found |= {key: one for key, one in half.items() if key != "name"}
    return found


def _cells(row: Row) -> tuple[str, str, str, str]:
    cosine = "-" if math.isnan(row.cosine) else f"{row.cosine:.4f}"
    return cosine, error_text(row.error), steps_text(row.steps), memory_text(row.bytes)


def error_text(error: float) -> str:
    """``2.1e-05``, ``0.38``, ``175``, ``diverges``."""
    if not math.isfinite(error):
        return "diverges"
    if error == 0:
        return "0"
    if not 0.01 <= error < 10_000:
        return f"{error:.1e}"
    return f"{error:.2f}" if error < 10 else f"{error:.0f}"


def steps_text(steps: float) -> str:
    return "-" if math.isnan(steps) else three_digits(steps)


def memory_text(size: int | None) -> str:
    return "-" if size is None else bytes_text(size)


def _labelled(rows: list[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    for label, found in rows:
        table.add_row(label, Text(found))
    return Padding(table, (0, 0, 0, 2))


def _flags(flags: tuple[Flag, ...]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="yellow")
    table.add_column()
    for flag in flags:
        table.add_row(flag.code, Text(f"{flag.message} (iteration {flag.iteration:,})"))
        table.add_row("", Text(flag.advice, style="italic"))
    return Padding(table, (0, 0, 0, 2))


def _recommendation(edge: EdgeCheck) -> RenderableType:
    found = edge.recommendation
    if found is None:
        return Text("recommendation   none: no method gave a finite hypergradient", style="bold")
    what = f"method: {to_flow(to_value(found.method))}"
    head = f"recommendation   {what}" + ("" if found.change else "   (as now)")
    return Group(Text(head, style="bold"), _labelled([("why", found.reason)]))
