"""``--set problems.classifier.optimizer.lr=0.01``: fields of a spec replaced from the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from betty.ir.diagnostics import Diagnostic, Field, field_text, nearest
from betty.spec.issues import shown
from betty.spec.source import Read, read_yaml

STEP = re.compile(r"\[(\d{1,6})\]|([^.\[\]]+)")
PATH = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[\d{1,6}\])*")
# A text at these fields is short for a mapping that holds it under this key.
SHORTHANDS = {
    **dict.fromkeys(("module", "loss", "data", "optimizer", "scheduler", "validate"), "target"),
    **dict.fromkeys(("method", "inverse", "product"), "name"),
}
OPEN = ("optimizer", "scheduler")


class _OverrideError(Exception):
    """An override that cannot be applied."""

    def __init__(self, message: str, expected: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.expected, self.hint = message, expected, hint


def apply_overrides(read: Read, overrides: Sequence[str]) -> Read:
    """``read`` with each ``path=value`` put in, left to right; mistakes are added to its diagnostics."""
    for number, override in enumerate(overrides):
        read = _apply(read, override, number)
    return read


def _apply(read: Read, override: str, number: int) -> Read:
    text = f"--set {override}"
    try:
        path, value = _parse(override)
        data, settled = _put(read.data, path, (), value)
    except _OverrideError as refused:
        wrong = Diagnostic(
            code="bad-override",
            field=(),
            message=refused.message,
            expected=refused.expected,
            hint=refused.hint,
            where=text,
        )
        return replace(read, diagnostics=(*read.diagnostics, wrong))
    return replace(read, data=data, positions=read.positions.overlaid(settled, value, text, number))


def _parse(override: str) -> tuple[Field, Any]:
    path, equals, value = override.partition("=")
    path = path.strip()
    if not equals or not PATH.fullmatch(path):
        raise _OverrideError(
            f"{override!r} does not set a field", "path=value, such as problems.classifier.optimizer.lr=0.01"
        )
    return _steps(path), _value(value)


def _steps(path: str) -> Field:
    return tuple(int(index) if index else name for index, name in STEP.findall(path))


def _value(text: str) -> Any:
    if text.strip() in {"", "~", "null", "Null", "NULL"}:
        return None
    read = read_yaml(text, "--set")
    if read.diagnostics:
        raise _OverrideError(f"the value {text!r} is {read.diagnostics[0].message}", "a value as in a spec file")
    return read.data


def _put(data: Any, path: Field, done: Field, value: Any) -> tuple[Any, Field]:
    """A copy of ``data`` with ``value`` at ``path``, and where it really went; shared parts are left alone."""
    if not path:
        return value, done
    step, rest = path[0], path[1:]
    data = _opened(data, step, done)
    if isinstance(data, list):
        return _put_item(data, _index(step, data, done), rest, done, value)
    if not isinstance(data, dict):
        raise _OverrideError(
            f"{field_text(done)} is {shown(data)} and has no field {str(step)!r}", "a mapping or a list"
        )
    if isinstance(step, int):
        near = nearest(str(step), list(data))
        raise _OverrideError(f"{_place(done)} is a mapping and has no item {step}", "the name of a field", near)
    args = data.get("args")
    if done and done[-1] in OPEN and step not in data and isinstance(args, dict) and step in args:
        path, step, rest = ("args", *path), "args", path
    inner, settled = _put(data.get(step), rest, (*done, step), value)
    return {**data, step: inner}, settled


def _put_item(data: list[Any], index: int, rest: Field, done: Field, value: Any) -> tuple[Any, Field]:
    old = data[index] if index < len(data) else None
    inner, settled = _put(old, rest, (*done, index), value)
    return [*data[:index], inner, *data[index + 1 :]], settled


def _opened(data: Any, step: str | int, done: Field) -> Any:
    """``data`` as something that can hold ``step``: a short form is written out, nothing becomes a mapping."""
    if data is None:
        return [] if isinstance(step, int) or done[-1:] == ("edges",) else {}
    if isinstance(data, str) and done and done[-1] in SHORTHANDS:
        return {SHORTHANDS[str(done[-1])]: data}
    return data


def _index(step: str | int, data: list[Any], done: Field) -> int:
    count = f"{len(data)} item{'' if len(data) == 1 else 's'}"
    if not isinstance(step, int) and not re.fullmatch(r"\d{1,6}", step):
        raise _OverrideError(f"{_place(done)} is a list of {count} and has no field {step!r}", "an index such as [0]")
    if int(step) > len(data):
        raise _OverrideError(f"{_place(done)} has {count} and no item {step}", f"an index from 0 to {len(data)}")
    return int(step)


def _place(done: Field) -> str:
    return field_text(done) or "the spec"
