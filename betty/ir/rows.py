"""Rows of the table that explains a plan, and how they are laid out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    who: str
    when: str = ""
    what: str = ""
    size: str = ""
    cost: tuple[str, str] = ("", "")
    met: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        return self.who, self.when, self.what, self.size, *self.cost, *self.met, *self.measured


def because(reason: str) -> Iterator[Row]:
    """Why the compiler has chosen a method, and what would have come next; nothing without a reason."""
    for index, part in enumerate(reason.split("; runner-up ")):
        if part:
            yield Row(who="", what=f"({'auto' if index == 0 else 'runner-up'}: {part})")


def aligned(rows: Iterator[tuple[str, ...]]) -> list[str]:
    """Columns as wide as what stands in them; what ends its row may run over."""
    table = list(rows)
    widths = [0] * len(table[0])
    for row in table:
        last = max((column for column, cell in enumerate(row) if cell), default=0)
        for column, cell in enumerate(row[:last]):
            widths[column] = max(widths[column], len(cell))
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in table)
    return [f"  {line}".rstrip() for line in lines]
