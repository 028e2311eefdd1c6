"""Reading the textual IR back."""

from __future__ import annotations

import dataclasses
import json
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from betty.ir.diagnostics import BettyError, GraphError, PlanError, listing, nearest
from betty.ir.graph import Edge, Graph, Problem, Settings
from betty.ir.methods import Method
from betty.ir.plan import Differentiate, Draw, Instruction, Plan, Respond, Step, Update
from betty.ir.records import Flow

INSTRUCTIONS: dict[str, type[Instruction]] = {
    kind.__name__.lower(): kind for kind in (Draw, Differentiate, Respond, Update)
}
Record = TypeVar("Record")


@dataclass(frozen=True)
class Line:
    """One line: its number, its first word, the names after it and its pairs."""

    number: int
    keyword: str
    names: tuple[str, ...]
    pairs: dict[str, Any]


class _Wrong(Exception):
    """What is wrong on a line."""


def parse_graph(text: str) -> Graph:
    """The graph that ``graph_to_text`` has written.

    Raises:
        GraphError: A line cannot be read; its number, what was found and what is allowed are named.
    """
    lines = _lines(text, GraphError)
    head = _head(lines, "graph", GraphError)
    problems: list[Problem] = []
    edges: list[Edge] = []
    for line in lines[1:]:
        with _at(line, GraphError):
            _allowed(line.keyword, ("problem", "edge"))
            if line.keyword == "problem":
                problems.append(_record(Problem, line.pairs, name=_subject(line)))
            else:
                upper, lower = _subjects(line)
                edges.append(_record(Edge, line.pairs, upper=upper, lower=lower))
    with _at(lines[0], GraphError):
        return Graph(_subject(head), tuple(problems), tuple(edges), _record(Settings, head.pairs))


def parse_plan(text: str) -> Plan:
    """The plan that ``plan_to_text`` has written.

    Raises:
        PlanError: A line cannot be read; its number, what was found and what is allowed are named.
    """
    lines = _lines(text, PlanError)
    head = _head(lines, "plan", PlanError)
    steps: list[tuple[Line, list[Instruction]]] = []
    for line in lines[1:]:
        with _at(line, PlanError):
            if line.keyword == "step":
                steps.append((line, []))
                continue
            _allowed(line.keyword, ("step", *INSTRUCTIONS))
            if not steps:
                raise _Wrong("an instruction before the first step")
            named = {"problem": _subject(line)} if line.keyword == "respond" else {}
            steps[-1][1].append(_record(INSTRUCTIONS[line.keyword], line.pairs, **named))
    made = []
    for line, items in steps:
        with _at(line, PlanError):
            made.append(_record(Step, line.pairs, problem=_subject(line), instructions=tuple(items)))
    with _at(lines[0], PlanError):
        return _record(Plan, head.pairs, name=_subject(head), steps=tuple(made))


@dataclass
class _at:  # noqa: N801 - a context manager, used like a function
    """Turn what is wrong on a line into an error that names the line."""

    line: Line
    error: type[BettyError]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, wrong: BaseException | None, trace: Any) -> None:
        if isinstance(wrong, _Wrong | ValueError | TypeError | BettyError):
            raise self.error(f"line {self.line.number}: {wrong}") from None


def _lines(text: str, error: type[BettyError]) -> list[Line]:
    found = []
    for number, raw in enumerate(text.splitlines(), start=1):
        if not raw.strip():
            continue
        with _at(Line(number, "", (), {}), error):
            found.append(_line(number, raw.strip()))
    return found


def _head(lines: list[Line], keyword: str, error: type[BettyError]) -> Line:
    if not lines or lines[0].keyword != keyword:
        raise error(f"line 1: expected {keyword!r}, found {lines[0].keyword if lines else 'nothing'!r}")
    return lines[0]


def _line(number: int, text: str) -> Line:
    text = re.sub(r"^%\d+ = ", "", text)
    words = list(_words(text))
    if not words or not isinstance(words[0], str):
        raise _Wrong(f"expected a keyword, found {text!r}")
    names = [word for word in words[1:] if isinstance(word, str)]
    return Line(number, words[0], tuple(names), dict(word for word in words if isinstance(word, tuple)))


WORD = re.compile(r"[^\s=\"]+")


def _words(text: str) -> Iterator[str | tuple[str, Any]]:
    """Plain words and JSON strings as text, ``key=JSON`` as pairs."""
    decoder, position = json.JSONDecoder(), 0
    while position < len(text):
        if text[position] == " ":
            position += 1
        elif text[position] == '"':
            word, position = _decode(decoder, text, position)
            yield word
        else:
            found = WORD.match(text, position)
            if found is None:
                raise _Wrong(f"cannot read {text[position:]!r}")
            position = found.end()
            if text[position : position + 1] != "=":
                yield found[0]
                continue
            value, position = _decode(decoder, text, position + 1)
            yield found[0], value


def _decode(decoder: json.JSONDecoder, text: str, position: int) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, position)
    except json.JSONDecodeError:
        raise _Wrong(f"expected a JSON value at {text[position:]!r}") from None


def _subject(line: Line) -> str:
    if len(line.names) != 1:
        raise _Wrong(f"{line.keyword!r} takes one name, found {len(line.names)}")
    return line.names[0]


def _subjects(line: Line) -> tuple[str, str]:
    if len(line.names) != 3 or line.names[1] != "->":
        raise _Wrong("an edge is written UPPER -> LOWER")
    return line.names[0], line.names[2]


def _allowed(found: str, names: tuple[str, ...]) -> None:
    if found not in names:
        hint = nearest(found, names)
        raise _Wrong(f"expected one of {listing(names)}, found {found!r}" + (f"; did you mean {hint}?" if hint else ""))


def _record(kind: type[Record], pairs: dict[str, Any], **known: Any) -> Record:
    """A record of ``kind`` from pairs, each value in the type of its field."""
    hints = get_type_hints(kind)
    for key in pairs:
        _allowed(key, tuple(name for name in hints if name not in known))
    return kind(**known, **{key: _typed(value, hints[key], key) for key, value in pairs.items()})


def _typed(value: Any, hint: Any, key: str) -> Any:
    options = get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)
    if value is None and type(None) in options:
        return None
    wanted = next(option for option in options if option is not type(None))
    if wanted is Method:
        return Method.parse(value)
    if wanted is Flow:
        _allowed(value, tuple(flow.value for flow in Flow))
        return Flow(value)
    if dataclasses.is_dataclass(wanted) and isinstance(value, dict):
        return _record(wanted, value)  # type: ignore[type-var]
    if get_origin(wanted) is tuple and isinstance(value, list):
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(wanted, type) and type(value) is wanted:
        return value
    raise _Wrong(f"{key}={value!r} is no {getattr(wanted, '__name__', wanted)}")
