"""What pydantic found, in this project's words: where, found, expected, try."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from betty.ir.diagnostics import Diagnostic, Field, nearest
from betty.spec.fields import OpenTarget, Target
from betty.spec.issues import ISSUES, Issue, kind_of, one_of, shown
from betty.spec.models import Spec


@dataclass(frozen=True)
class Fault:
    """One error of pydantic: where it is, what has to be cut out, and the issues that it stands for."""

    path: Field
    cut: Field
    issues: tuple[Issue, ...]


def located(error: Mapping[str, Any], edges: Sequence[int]) -> Fault:
    """The fault that ``error`` describes; ``edges`` maps indices of the tried edges to those of the spec."""
    path: Field = tuple(error["loc"])
    if len(path) > 1 and path[0] == "edges" and isinstance(path[1], int):
        path = ("edges", edges[path[1]], *path[2:])
    if _is_about_key(error, path):
        path = path[:-1]
        if error["type"] != ISSUES:
            return Fault(path, path, (_bad_key(path),))
    return Fault(path, path, tuple(_issues(error, path)))


def _is_about_key(error: Mapping[str, Any], path: Field) -> bool:
    """Whether pydantic means the key before the last part; somebody may really call a field ``[key]``."""
    named = path[-1:] == ("[key]",) and error["type"] != "extra_forbidden"
    return named and typing.get_origin(_annotation(path[:-2])) is dict


def _bad_key(path: Field) -> Issue:
    return Issue(code="bad-key", message=f"a key is {kind_of(path[-1])}", expected="keys that are text")


def faults(found: Iterable[Fault]) -> Iterator[Diagnostic]:
    """One diagnostic an issue; those about a name are marked by their codes (see :func:`about_key`)."""
    for fault in found:
        for issue in fault.issues:
            yield Diagnostic(
                code=issue.code,
                field=(*fault.path, *issue.at),
                message=issue.message,
                expected=issue.expected,
                hint=issue.hint,
            )


ABOUT_KEYS = {"unknown-field", "unknown-option", "bad-name", "bad-key", "given-twice", "unknown-argument"}


def about_key(diagnostic: Diagnostic) -> bool:
    """Whether the key of the field is at fault, not its value."""
    return diagnostic.code in ABOUT_KEYS and diagnostic.field != ("name",)


def _issues(error: Mapping[str, Any], path: Field) -> tuple[Issue, ...]:
    if error["type"] == ISSUES:
        return tuple(error["ctx"]["issues"])
    return (_issue(str(error["type"]), error, path),)


def _issue(kind: str, error: Mapping[str, Any], path: Field) -> Issue:
    if kind == "extra_forbidden":
        return _unknown_field(path)
    if kind == "missing":
        return _missing(path)
    if kind in {"enum", "literal_error"}:
        return _bad_choice(path, error["input"])
    if kind in RANGES:
        return _out_of_range(kind, error)
    if kind == "invalid_key":
        return _bad_key(path)
    return _wrong_type(kind, error)


def _missing(path: Field) -> Issue:
    found = field_at(path)
    expected = f"{found.description}".partition(";")[0].rstrip(".").replace("`", "") if found else ""
    return Issue(code="missing-field", message=f"missing field {str(path[-1])!r}", expected=expected)


def _out_of_range(kind: str, error: Mapping[str, Any]) -> Issue:
    number = shown(error["input"]).partition(" (")[0]
    limit = next((f"{one:g}" for one in error.get("ctx", {}).values()), "")
    return Issue(code="out-of-range", message=f"{number} is out of range", expected=RANGES[kind].format(limit))


RANGES = {
    "greater_than_equal": "at least {}",
    "greater_than": "more than {}",
    "less_than": "less than {}",
    "less_than_equal": "at most {}",
    "finite_number": "a finite number",
}
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "list": "a list"}


def _wrong_type(kind: str, error: Mapping[str, Any]) -> Issue:
    value = error["input"]
    expected = KINDS.get(kind.partition("_")[0], "a mapping")
    return Issue(code="wrong-type", message=f"found {shown(value)}", expected=expected, hint=_as_type(expected, value))


def _as_type(expected: str, value: Any) -> str:
    """What was probably meant by a value of the wrong type."""
    if expected == "true or false" and isinstance(value, str):
        words = {"yes": "true", "on": "true", "no": "false", "off": "false", "true": "true", "false": "false"}
        return words.get(value.lower(), "")
    if expected == "a whole number" and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if expected in {"a whole number", "a number"} and isinstance(value, str) and value.strip().isdecimal():
        return f"{value.strip()}, without quotes"
    return f'"{value}"' if expected == "text" and isinstance(value, int | float) and _short(value) else ""


def _short(value: float) -> bool:
    return not isinstance(value, int) or value.bit_length() < 100


def _bad_choice(path: Field, value: Any) -> Issue:
    allowed = choices(path)
    near = nearest(value, allowed) if isinstance(value, str) else ""
    message = f"{repr(value) if isinstance(value, str) else shown(value)} is not a {path[-1]}"
    return Issue(code="bad-choice", message=message, expected=one_of(allowed), hint=near)


def _unknown_field(path: Field) -> Issue:
    name, allowed = str(path[-1]), names_at(path[:-1])
    return Issue(
        code="unknown-field",
        message=f"unknown field {name!r}",
        expected=one_of(allowed),
        hint=nearest(name, allowed),
    )


def names_at(path: Field) -> list[str]:
    """The fields of the model at ``path``, as they are written in a spec."""
    model = _model(_annotation(path))
    return [info.alias or name for name, info in model.model_fields.items()] if model else []


def choices(path: Field) -> list[str]:
    """The values that the field at ``path`` allows, where it has a fixed list of them."""
    annotation = _annotation(path)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(one.value) for one in annotation]
    return [str(one) for part in [annotation, *typing.get_args(annotation)] for one in _literals(part)]


def _literals(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def field_at(path: Field) -> FieldInfo | None:
    """The declaration of the field at ``path``."""
    model = _model(_annotation(path[:-1]))
    fields = model.model_fields.items() if model else ()
    return next((info for name, info in fields if (info.alias or name) == path[-1]), None)


def _annotation(path: Field) -> Any:
    """The type of the field at ``path``; ``None`` where none is declared."""
    annotation: Any = Spec
    for step in path:
        annotation = _bare(annotation)
        if typing.get_origin(annotation) in {dict, list}:
            annotation = typing.get_args(annotation)[-1]
            continue
        fields = annotation.model_fields if _model(annotation) else {}
        annotation = next((one.annotation for name, one in fields.items() if (one.alias or name) == step), None)
    return _bare(annotation)


def _bare(annotation: Any) -> Any:
    """An annotation without ``| None`` and without metadata."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _bare(typing.get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        return _bare(parts[0]) if len(parts) == 1 else annotation
    return annotation


def _model(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def is_target(path: Field) -> bool:
    """Whether the field at ``path`` names something to import."""
    model = _model(_annotation(path))
    return model is not None and issubclass(model, Target)


def is_open(path: Field) -> bool:
    """Whether the field at ``path`` is a target whose arguments may stand beside it."""
    model = _model(_annotation(path))
    return model is not None and issubclass(model, OpenTarget)
