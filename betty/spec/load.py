"""Reading a spec from a file, a mapping or models: one document, or one report of everything wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from betty.ir.diagnostics import Diagnostic, Field, SpecError, nearest
from betty.spec.checks import spec_diagnostics
from betty.spec.fit import Fitted, fit, plain_data
from betty.spec.issues import kind_of
from betty.spec.models import Spec
from betty.spec.overrides import apply_overrides
from betty.spec.positions import OVERRIDES, Order, Positions, positions_of, relative
from betty.spec.source import Read, read_yaml
from betty.spec.wording import about_key

Source = str | Path | Mapping[str, Any] | Spec


@dataclass(frozen=True)
class Document:
    """A spec and where it came from.

    Args:
        spec: The spec, overrides included.
        path: The file that it was read from; ``None`` for one made in Python.
        folder: Where its targets are looked for first: the file's folder, else the working directory.
        text: The text of the file; empty for a spec made in Python.
        data: The spec as mappings and lists, as it was written.
        positions: Where its fields were written.
    """

    spec: Spec
    path: Path | None
    folder: Path
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    positions: Positions = field(default_factory=Positions, repr=False)

    def locate(self, path: Field, key: bool = False) -> str:
        """``file:line:column`` of the value at ``path``, or of its ``key``; empty for a spec made in Python."""
        return self.positions.place(self.positions.settle(path), key).text

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The problems as they were written, those included that are wrong."""
        problems = self.data.get("problems")
        return tuple(str(name) for name in problems) if isinstance(problems, Mapping) else ()

    def report(self, diagnostics: Iterable[Diagnostic]) -> SpecError:
        """One error with all ``diagnostics``: each once, with its place, in the order of the file."""
        placed = [self._placed(one) for one in diagnostics]
        ordered = sorted(placed, key=lambda pair: pair[0])
        return SpecError(dict.fromkeys(one for _, one in ordered))

    def _placed(self, wrong: Diagnostic) -> tuple[Order, Diagnostic]:
        if wrong.where:
            return _order(wrong.where), wrong
        path = self.positions.settle(wrong.field)
        place = self.positions.place(path, about_key(wrong))
        where = ", ".join(part for part in (place.text, self._edge(path)) if part)
        return place.order, replace(wrong, field=path, where=where)

    def _edge(self, path: Field) -> str:
        """``edge weigher -> classifier`` where ``path`` lies in an edge whose ends are known."""
        if len(path) < 2 or path[0] != "edges":
            return ""
        edges = self.data.get("edges")
        edge = edges[path[1]] if isinstance(edges, list) and isinstance(path[1], int) else None
        ends = [edge.get("upper"), edge.get("lower")] if isinstance(edge, Mapping) else []
        return f"edge {ends[0]} -> {ends[1]}" if ends and all(isinstance(end, str) for end in ends) else ""


def _order(where: str) -> Order:
    found = re.search(r":(\d+):(\d+)$", where)
    return (int(found[1]) - 1, int(found[2]) - 1) if found else (OVERRIDES, 0)


@dataclass(frozen=True)
class Draft:
    """As much of a document as could be read, and everything wrong with it so far."""

    document: Document
    fitted: Fitted
    diagnostics: tuple[Diagnostic, ...]


def load(source: Source, overrides: Sequence[str] = ()) -> Document:
    """Read and check a spec; nothing is imported.

    Args:
        source: The path of a YAML file, a mapping as such a file holds (live objects allowed), or a :class:`Spec`.
        overrides: ``path=value`` texts, put into the spec before it is checked.

    Raises:
        SpecError: Everything wrong with the spec, in the order of the file.
    """
    found = draft(source, overrides)
    if found.diagnostics:
        raise found.document.report(found.diagnostics)
    return found.document


def draft(source: Source, overrides: Sequence[str] = ()) -> Draft:
    """Read as much of a spec as can be read.

    Raises:
        SpecError: Nothing of it can be: a file that does not exist, that is no YAML or holds no mapping.
    """
    path, text, read = _read(source)
    if not isinstance(read.data, dict):
        raise SpecError(read.diagnostics or [_not_a_mapping(read)])
    read = apply_overrides(read, overrides)
    fitted = fit(read.data, plain=path is not None)
    folder = path.parent.absolute() if path else Path.cwd()
    spec = fitted.spec or Spec(name="unnamed", problems={})
    document = Document(spec, path, folder, text, read.data, read.positions)
    wrong = [*read.diagnostics, *fitted.diagnostics]
    if fitted.spec is not None:
        wrong += spec_diagnostics(spec, fitted, document.names)
    return Draft(document, fitted, tuple(wrong))


def _read(source: Source) -> tuple[Path | None, str, Read]:
    if isinstance(source, str | Path):
        path = Path(source)
        text = _file_text(path)
        return path, text, read_yaml(text, relative(path))
    data = plain_data(source)
    return None, "", Read(data, positions_of(data))


def _file_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpecError([_unreadable(path, "there is no such file", _similar(path))]) from None
    except IsADirectoryError:
        raise SpecError([_unreadable(path, "this is a folder", _similar(path / "spec.yaml"))]) from None
    except UnicodeDecodeError as error:
        raise SpecError([_unreadable(path, f"not UTF-8 text: byte {error.start} is {error.reason}")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError([_unreadable(path, f"the file cannot be read: {reason}")]) from None


def _unreadable(path: Path, message: str, hint: str = "") -> Diagnostic:
    return Diagnostic(code="unreadable", field=(), message=message, expected="a YAML file", hint=hint, where=str(path))


def _similar(path: Path) -> str:
    """A spec file beside the one that does not exist."""
    try:
        names = sorted(one.name for one in path.parent.iterdir() if one.suffix in {".yaml", ".yml"})
    except OSError:
        return ""
    near = nearest(path.name, names) or (names[0] if len(names) == 1 else "")
    return str(path.parent / near) if near else ""


def _not_a_mapping(read: Read) -> Diagnostic:
    return Diagnostic(
        code="wrong-type",
        field=(),
        message=f"the spec is {kind_of(read.data)}",
        expected="a mapping with name, problems, edges and engine",
        where=read.positions.place(()).text,
    )
