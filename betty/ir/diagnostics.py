"""What is wrong with a program: one record per mistake, collected into one report."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

Field = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Diagnostic:
    """One mistake, in four parts: where, found, expected, try.

    Args:
        code: Stable identifier of the kind of mistake, such as ``unknown-field``.
        field: Path of the offending field from the root of the spec, such as ``("edges", 0, "method")``.
        message: One sentence that says what was found.
        expected: What is allowed instead, empty when the message says it.
        hint: What to write, the nearest valid name for instance; empty when nothing is near.
        where: ``file:line:column`` or a description of the object; filled by the front end that knows it.
    """

    code: str
    field: Field
    message: str
    expected: str = ""
    hint: str = ""
    where: str = ""

    def located(self, where: str) -> Diagnostic:
        return replace(self, where=where)

    def to_text(self) -> str:
        head = f"{field_text(self.field)}: {self.message}" if self.field else self.message
        rows = (("where", self.where), ("expected", self.expected), ("try", self.hint))
        return "\n".join([head, *(f"  {label:<9} {text}" for label, text in rows if text)])


class BettyError(Exception):
    """A mistake in a program that its author can mend. Shown without a traceback, exit code 2."""

    stage = "betty"

    def __init__(self, diagnostics: Iterable[Diagnostic] | str) -> None:
        if isinstance(diagnostics, str):
            diagnostics = [Diagnostic(code=self.stage, field=(), message=diagnostics)]
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__(self.to_text())

    def to_text(self) -> str:
        blocks = [f"{type(self).__name__}: {item.to_text()}" for item in self.diagnostics]
        if len(blocks) > 1:
            blocks.append(f"{len(blocks)} errors")
        return "\n\n".join(blocks)


class SpecError(BettyError):
    """The declaration is wrong: a field, a type, a target."""

    stage = "spec"


class GraphError(BettyError):
    """The declared problems and edges do not form a program, or textual IR cannot be parsed."""

    stage = "graph"


class PlanError(BettyError):
    """A pass or the lowering met a graph that it may not see, or a plan cannot be parsed."""

    stage = "plan"


def field_text(field: Field) -> str:
    """``("edges", 0, "method")`` as ``edges[0].method``."""
    text = ""
    for part in field:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(found: str, allowed: Sequence[str]) -> str:
    """The allowed name nearest to ``found``, or an empty string when none is near."""
    by_folded = {name.lower().replace("-", "_"): name for name in reversed(allowed)}
    folded = found.lower().replace("-", "_")
    close = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else ""


def listing(names: Sequence[str], most: int = 16) -> str:
    """``a, b, c`` in the given order; long lists are cut with a count."""
    shown = ", ".join(names[:most])
    return f"{shown}, and {len(names) - most} more" if len(names) > most else shown
