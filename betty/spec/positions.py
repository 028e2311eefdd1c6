"""Where each field of a spec was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from betty.ir.diagnostics import Field

Order = tuple[int, int]
OVERRIDES = 2**40
"""First part of the order of overrides: they come after every line of a file."""


@dataclass(frozen=True)
class Place:
    """A point in a spec: ``order`` sorts places, ``text`` names them; without a text there is no place to name."""

    order: Order
    text: str = ""


@dataclass(frozen=True)
class Positions:
    """Places of the keys and values of a spec by field.

    Args:
        values: Where the value of a field begins.
        keys: Where its key stands; items of lists have none.
    """

    values: Mapping[Field, Place] = field(default_factory=dict)
    keys: Mapping[Field, Place] = field(default_factory=dict)

    def __contains__(self, path: Field) -> bool:
        return path in self.values

    def place(self, path: Field, key: bool = False) -> Place:
        """The place of ``path``, or of the nearest mapping around it where the field was not written."""
        for length in range(len(path), -1, -1):
            part = path[:length]
            if part in self.values:
                named = key or length < len(path)
                return self.keys.get(part, self.values[part]) if named else self.values[part]
        return Place((0, 0))

    def settle(self, path: Field) -> Field:
        """``path`` as it was written: without an ``args`` or a ``target`` that a shorter form left out."""
        if path in self.values:
            return path
        if path[-1:] == ("target",) and path[:-1] in self.values:
            return path[:-1]
        for index, part in enumerate(path):
            beside = path[:index] + path[index + 1 :]
            if part == "args" and beside in self.values:
                return beside
        return path

    def overlaid(self, path: Field, value: Any, text: str, number: int) -> Positions:
        """These positions after ``value`` was put at ``path`` by the override ``text``, the ``number``-th."""
        place = Place((OVERRIDES, number), text)
        kept = {one: old for one, old in self.values.items() if one[: len(path)] != path}
        keys = {one: old for one, old in self.keys.items() if one[: len(path)] != path}
        new = {path + inner: place for inner in fields_of(value)}
        around = {path[:length]: place for length in range(len(path)) if path[:length] not in kept}
        return replace(self, values={**kept, **around, **new}, keys=keys)


def positions_of(data: Any) -> Positions:
    """Positions of a spec that was never text: its fields in their order, none with a place to name."""
    return Positions({path: Place((index, 0)) for index, path in enumerate(fields_of(data))})


def fields_of(data: Any, path: Field = (), depth: int = 64) -> Iterator[Field]:
    """The path of ``data`` and of every field in it, parents first; of lists, only those that a spec itself has."""
    yield path
    if depth and isinstance(data, dict):
        for key, value in data.items():
            yield from fields_of(value, (*path, key), depth - 1)
    elif isinstance(data, list) and (path == ("edges",) or path[-1:] == ("shape",)):
        for index, value in enumerate(data):
            yield from fields_of(value, (*path, index), depth - 1)


def relative(path: Path) -> str:
    """``path`` from the working directory where it lies below it, else in full."""
    full = path.absolute()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)
