"""Mistakes found inside a validator, carried through pydantic so that one value may have several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

from betty.ir.diagnostics import Field, listing, nearest

ISSUES = "betty-issues"
"""The type of every pydantic error that carries :class:`Issue` records in its context."""


@dataclass(frozen=True, kw_only=True)
class Issue:
    """One mistake in a value.

    Args:
        code: As in :class:`betty.ir.diagnostics.Diagnostic`.
        message: What was found.
        at: Where inside the value; empty for the value itself.
        expected: What is allowed.
        hint: What to write instead.
        key: Whether the name of the field is at fault and not its value.
    """

    code: str
    message: str
    at: Field = ()
    expected: str = ""
    hint: str = ""
    key: bool = False


def refuse(*issues: Issue) -> PydanticCustomError:
    """The exception by which a validator reports ``issues``."""
    text = "; ".join(issue.message for issue in issues)
    return PydanticCustomError(ISSUES, "{text}", {"text": text, "issues": issues})


def kind_of(value: Any) -> str:
    """What a person calls the type of ``value``: text, a whole number, a mapping, ..."""
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (str, "text"),
        (dict, "a mapping"),
        ((list, tuple), "a list"),
        (type(None), "empty"),
    )
    return next((name for types, name in kinds if isinstance(value, types)), f"an object of {type(value).__name__}")


def shown(value: Any, most: int = 60) -> str:
    """``value`` as it is named in a message, such as ``'abc' (text)`` or ``a mapping``."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float | str):
        return kind_of(value)
    # Python refuses to print whole numbers beyond some thousand digits.
    huge = isinstance(value, int) and value.bit_length() > 1000
    text = "a number of hundreds of digits" if huge else repr(value)
    return f"{text if len(text) <= most else text[: most - 3] + '...'} ({kind_of(value)})"


def one_of(names: Sequence[str]) -> str:
    """``one of a, b, c``, or just the name where there is only one."""
    return listing(names) if len(names) == 1 else f"one of {listing(names)}"


def unknown_name(code: str, message: str, found: str, allowed: Sequence[str], at: Field = (), lead: str = "") -> Issue:
    """An issue about a name outside of ``allowed``, with the nearest of them; ``lead`` stands before the hint."""
    near = nearest(found, allowed)
    return Issue(code=code, message=message, at=at, expected=one_of(allowed), hint=near and lead + near)
