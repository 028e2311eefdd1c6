"""Dataclasses whose fields carry checks: at construction all at once, and at every assignment."""

from __future__ import annotations

import difflib
import math
import re
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, field, fields
from numbers import Integral, Real
from typing import Any, ClassVar, Self

from betty.ir.diagnostics import BettyError, Diagnostic, listing, nearest
from betty.spec.issues import one_of, shown

TYPO = 0.8
"""Likeness to a field from which an attribute that is no field counts as a slip of the pen."""
MOST = 40
"""Fields that a message lists."""

Wrong = tuple[str, str, str]
"""What was found, what is expected, and the nearest valid value as it is written (or nothing)."""
Check = Callable[[Any], Wrong | None]


class ConfigError(BettyError):
    """Settings are wrong: all their mistakes in one report."""

    stage = "config"


class Checked:
    """Base of dataclasses whose fields are made by :func:`flag`, :func:`whole`, :func:`number` and their like.

    A checked value is kept in the type of its field's default, so that NumPy's numbers, and ``1`` for ``True``, are as
    good as any. Attributes that are no fields may be assigned, unless they look like a field misspelt.

    Raises:
        ConfigError: Everything wrong with the arguments, or with the value assigned.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Before the generated __init__, which would stop at the first mistake, and with a TypeError. A class that
        # writes its own takes arguments of its own.
        if _generated(cls) and (wrong := list(_wrong_arguments(cls, args, kwargs))):
            raise ConfigError(wrong)
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if wrong := _wrong_value(type(self), name, value):
            raise ConfigError([wrong])
        super().__setattr__(name, _plain(type(self), name, value))

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterable[tuple[str, Wrong]]:
        """What does not go together among the values given, by the name of a field."""
        return ()


def caller() -> types.FrameType:
    """Where in the program settings are made or changed."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in OWN:
        frame = frame.f_back
    return frame


OWN = frozenset({__name__, "betty.configs", "dataclasses"})
"""Modules that no message points at."""


def _generated(cls: type[Checked]) -> bool:
    owner = next(one for one in cls.__mro__ if "__init__" in vars(one))
    return "__dataclass_params__" in vars(owner)


def _wrong_arguments(cls: type[Checked], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Diagnostic]:
    names = [one.name for one in fields(cls) if one.init]
    if len(args) > len(names):
        expected = f"at most {len(names)}: {listing(names, MOST)}"
        yield _diagnostic(cls, "", (f"found {len(args)} values in a row", expected, ""))
    placed = dict(zip(names, args, strict=False))
    for name in (name for name in placed if name in kwargs):
        yield _diagnostic(cls, name, (f"given twice, once as {shown(placed[name])} by its place", "one value", ""))
    values = {**placed, **kwargs}
    wrong = {name: _unknown(cls, name, names) for name in values if name not in names}
    wrong |= {name: one for name in values if name in names and (one := _wrong_value(cls, name, values[name]))}
    yield from (wrong[name] for name in values if name in wrong)
    if not wrong:
        yield from (_diagnostic(cls, name, one) for name, one in cls.conflicts(values))


def _wrong_value(cls: type[Checked], name: str, value: Any) -> Diagnostic | None:
    known = cls.__dataclass_fields__
    if name not in known:
        slip = not name.startswith("_") and difflib.get_close_matches(name, known, n=1, cutoff=TYPO)
        return _unknown(cls, name, known) if slip else None
    check: Check | None = known[name].metadata.get("check")
    wrong = check(value) if check else None
    if wrong is None:
        return None
    found, expected, near = wrong
    return _diagnostic(cls, name, (found, expected, f"{name}={near}" if near else ""))


def _unknown(cls: type[Checked], name: str, names: Collection[str]) -> Diagnostic:
    near = nearest(name, list(names))
    expected = f"one of {listing(list(names), MOST)}"
    return _diagnostic(cls, name, ("there is no such field", expected, f"{near}=..." if near else ""))


def _diagnostic(cls: type[Checked], name: str, wrong: Wrong) -> Diagnostic:
    found, expected, hint = wrong
    frame = caller()
    return Diagnostic(
        code="config",
        field=(cls.__name__, name) if name else (cls.__name__,),
        message=found,
        expected=expected,
        hint=hint,
        where=f"{frame.f_code.co_filename}:{frame.f_lineno}",
    )


def _plain(cls: type[Checked], name: str, value: Any) -> Any:
    known = cls.__dataclass_fields__.get(name)
    kind = type(known.default) if known is not None and "check" in known.metadata else str
    return kind(value) if kind in {bool, int, float} else value


# Kinds of fields


def checked(default: Any, check: Check) -> Any:
    """A field whose value ``check`` looks at."""
    return field(default=default, metadata={"check": check})


def flag(default: bool) -> Any:
    """``True`` or ``False``."""

    def check(value: Any) -> Wrong | None:
        fits = isinstance(value, bool | Integral) and value in {0, 1}
        return None if fits else (f"found {shown(value)}", "True or False", str(default))

    return checked(default, check)


def whole(default: int, least: int | None = None) -> Any:
    """A whole number, at least ``least``."""
    expected = "a whole number" + ("" if least is None else f", at least {least}")

    def check(value: Any) -> Wrong | None:
        if isinstance(value, bool) or not isinstance(value, Integral):
            return f"found {shown(value)}", expected, str(_rounded(value, default, least))
        return (
            None if least is None or int(value) >= least else (f"{shown(value)} is out of range", expected, str(least))
        )

    return checked(default, check)


def _rounded(value: Any, default: int, least: int | None) -> int:
    """The whole number nearest to a value that is none, such as ``5`` to ``5.0``."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return default
    near = round(float(value))
    return near if least is None else max(near, least)


def number(default: float, least: float | None = None, above: float | None = None) -> Any:
    """A finite number, at least ``least`` or greater than ``above``."""
    bound = f", at least {least:g}" if least is not None else f", above {above:g}" if above is not None else ""

    def check(value: Any) -> Wrong | None:
        if isinstance(value, bool) or not isinstance(value, Real):
            return f"found {shown(value)}", f"a number{bound}", repr(default)
        low = (least is not None and value < least) or (above is not None and value <= above)
        if not low and math.isfinite(value):
            return None
        return (
            f"{value} is out of range",
            f"a finite number{bound}",
            repr(least if low and least is not None else default),
        )

    return checked(default, check)


def choice(default: str, *names: str) -> Any:
    """One of some names."""

    def check(value: Any) -> Wrong | None:
        if not isinstance(value, str):
            return f"found {shown(value)}", one_of(names), repr(default)
        near = nearest(value, names)
        return None if value in names else (f"{value!r} is unknown", one_of(names), repr(near) if near else "")

    return checked(default, check)


def text(default: str, pattern: str, expected: str) -> Any:
    """Text that is a ``pattern`` from end to end, of letters, digits, ``-``, ``_`` and ``.`` where it can be mended."""

    def check(value: Any) -> Wrong | None:
        if not isinstance(value, str):
            return f"found {shown(value)}", expected, repr(default)
        near = re.sub(r"[^A-Za-z0-9_.-]+", "-", value).strip("-.") or default
        return None if re.fullmatch(pattern, value) else (f"{value!r} is not a name", expected, repr(near))

    return checked(default, check)
