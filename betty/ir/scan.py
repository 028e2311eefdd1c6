"""The small parts of textual IR: names, values, calls and lists, each with its way out and its way back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from betty.ir.diagnostics import BettyError, Diagnostic, listing, nearest
from betty.ir.methods import INVERSES, PRODUCTS, UNPAIRED, Declared, Method, Option, complete
from betty.ir.records import Call, Flow, Value
from betty.ir.valuations import VALUATIONS, ValuationMethod

T = TypeVar("T")

BARE = re.compile(r"[^\W\d]\w*'?(?:#\d+)?")
"""Names and slots that stand without quotes: ``finetune``, ``finetune'``, ``finetune#2``."""


def write_text(text: str) -> str:
    """A JSON string on one line, escaped only where it holds what a terminal would not show."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def write_name(name: str) -> str:
    return name if BARE.fullmatch(name) else write_text(name)


class Cursor:
    """A place in one line of textual IR. Every ``read`` skips spaces first and fails with line and column.

    Args:
        line: The text of the line.
        number: Its number, from one.
        error: What to raise: ``GraphError`` or ``PlanError``.
    """

    def __init__(self, line: str, number: int, error: type[BettyError]) -> None:
        self.line, self.number, self.error = line, number, error
        self.position = 0

    def fail(self, message: str, expected: str = "", hint: str = "", at: int | None = None) -> NoReturn:
        column = (self.position if at is None else at) + 1
        where = f"line {self.number}, column {column}"
        raise self.error(
            [Diagnostic(code="syntax", field=(), message=message, expected=expected, hint=hint, where=where)]
        )

    def found(self) -> str:
        """The next word or sign, for messages."""
        rest = self._skip()
        word = re.match(r"[\w%.]+|\S", rest)
        return repr(word.group()) if word else "the end of the line"

    @property
    def done(self) -> bool:
        return not self._skip()

    def _skip(self) -> str:
        while self.position < len(self.line) and self.line[self.position] in " \t\r":
            self.position += 1
        return self.line[self.position :]

    def accept(self, sign: str) -> bool:
        if not self._skip().startswith(sign):
            return False
        self.position += len(sign)
        return True

    def mark(self) -> int:
        """Where the next word begins."""
        self._skip()
        return self.position

    def expect(self, sign: str) -> None:
        if not self.accept(sign):
            self.fail(f"found {self.found()}", expected=repr(sign))

    def match(self, pattern: re.Pattern[str]) -> str | None:
        """What matches here, or ``None``."""
        self._skip()
        hit = pattern.match(self.line, self.position)
        if hit is None:
            return None
        self.position = hit.end()
        return hit.group()

    def keyword(self, allowed: Sequence[str], role: str) -> str:
        """One of ``allowed``; ``role`` says what it names, as in ``an option of cg``."""
        start, word = self.mark(), self.match(re.compile(r"\w+"))
        if word is None or word not in allowed:
            self.position = start
            self.reject(word or "", allowed, role)
        return word

    def reject(self, word: str, allowed: Sequence[str], role: str) -> NoReturn:
        """Say that ``word``, which stands here, is not one of ``allowed``, and which of them is nearest."""
        found = repr(word) if word else self.found()
        expected = f"one of {listing(allowed)}" if len(allowed) > 1 else "".join(allowed) or "nothing"
        self.fail(f"{found} is not {role}", expected, nearest(word, allowed))

    def name(self) -> str:
        if self._skip().startswith('"'):
            return str(self.value())
        name = self.match(BARE)
        return name if name is not None else self.fail(f"found {self.found()}", expected="a name, quoted or bare")

    def value(self) -> Any:
        """Any JSON value."""
        self._skip()
        try:
            value, self.position = json.JSONDecoder().raw_decode(self.line, self.position)
        except json.JSONDecodeError:
            self.fail(f"found {self.found()}", expected="a JSON value: a quoted string, a number, true, false or null")
        return value

    def typed(self, expected: str, *types: type) -> Any:
        """A JSON value of one of ``types``; a truth value is no number."""
        start, value = self.mark(), self.value()
        if type(value) not in types:
            self.fail(f"found {json.dumps(value)}", expected=expected, at=start)
        return value

    def many(self, item: Callable[[Cursor], T]) -> tuple[T, ...]:
        """``[item, item]``, possibly empty."""
        self.expect("[")
        items: list[T] = []
        while not self.accept("]"):
            if items and not self.accept(","):
                self.fail(f"found {self.found()}", expected="',' or ']'")
            items.append(item(self))
        return tuple(items)

    def method(self) -> Method:
        """``cg(iterations=20) + reverse``; options that are left out take their defaults."""
        solver = self._call({**INVERSES, **UNPAIRED}, "an inverse, a trajectory method or an estimator")
        if solver.name in UNPAIRED:
            return Method(solver=solver)
        self.expect("+")
        return Method(solver=solver, product=self._call(PRODUCTS, "a product"))

    def valuation(self) -> ValuationMethod:
        """``logra(rank=16)``; options that are left out take their defaults."""
        return ValuationMethod(solver=self._call(VALUATIONS, "a valuation method"))

    def _call(self, table: Mapping[str, Declared], role: str) -> Call:
        name = self.keyword(tuple(table), role)
        declared = table[name]
        options: dict[str, Value] = {}
        if self.accept("("):
            while not self.accept(")"):
                if options:
                    self.expect(",")
                key = self.keyword(tuple(declared.options), f"an option of {name}")
                self.expect("=")
                options[key] = self._option(declared.options[key])
        return complete(name, declared, options)

    def _option(self, option: Option) -> Value:
        kinds = {float: (float, int), type(None): (bool, int, float, str)}.get(option.kind, (option.kind,))
        if option.choices:
            start, word = self.mark(), str(self.typed("a quoted word", str))
            if word not in option.choices:
                self.position = start
                self.reject(word, option.choices, "a choice")
            return word
        value: Value = self.typed(f"a value of type {option.kind.__name__}", *kinds, *([type(None)] * option.optional))
        return value


@dataclass(frozen=True)
class Kind:
    """How the values of a field are written and read."""

    write: Callable[[Any], str]
    read: Callable[[Cursor], Any]


def _pair(cursor: Cursor) -> tuple[str, str]:
    name = cursor.name()
    return name, cursor.name() if cursor.accept("->") else ""


def _count(cursor: Cursor) -> tuple[str, int]:
    name = cursor.name()
    cursor.expect(":")
    return name, WHOLE.read(cursor)


def _write_pair(pair: tuple[str, str]) -> str:
    name, slot = map(write_name, pair)
    return f"{name} -> {slot}" if pair[1] else name


def _write_many(write: Callable[[Any], str]) -> Callable[[Sequence[Any]], str]:
    return lambda items: f"[{', '.join(map(write, items))}]"


TEXT = Kind(write_text, lambda cursor: cursor.typed("a quoted string", str))
WHOLE = Kind(json.dumps, lambda cursor: cursor.typed("a whole number", int))
NUMBER = Kind(json.dumps, lambda cursor: cursor.typed("a number", int, float))
FLAG = Kind(json.dumps, lambda cursor: cursor.typed("true or false", bool))
NAME = Kind(write_name, Cursor.name)
NAMES = Kind(_write_many(write_name), lambda cursor: cursor.many(Cursor.name))
PAIRS = Kind(_write_many(_write_pair), lambda cursor: cursor.many(_pair))
"""``[finetune -> finetune', reweight]``: a problem and a slot; no arrow where the slot is empty."""
COUNTS = Kind(
    _write_many(lambda item: f"{write_name(item[0])}: {item[1]}"),
    lambda cursor: cursor.many(_count),
)
FLOW = Kind(str, lambda cursor: Flow(cursor.keyword(tuple(Flow), "a flow")))
METHOD = Kind(Method.to_text, Cursor.method)
VALUATION = Kind(ValuationMethod.to_text, Cursor.valuation)
WHOLES = Kind(_write_many(json.dumps), lambda cursor: cursor.many(WHOLE.read))
SHAPES = Kind(
    _write_many(lambda shape: json.dumps(list(shape))),
    lambda cursor: cursor.many(lambda one: one.many(WHOLE.read)),
)
"""``[[64, 17], [10]]``"""
