"""The forms in which a spec names a method of valuation, checked against the table of ``betty.ir.valuations``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from betty.ir.diagnostics import Field
from betty.ir.methods import AUTO, ESTIMATORS, INVERSES, PRESETS, PRODUCTS, TRAJECTORIES
from betty.ir.valuations import VALUATIONS, ValuationMethod, valuation
from betty.spec.issues import Issue, one_of, shown, unknown_name
from betty.spec.method import option_issues

FORMS = "a name, or {name: ..., options}"
TRAINING = {*PRESETS, *INVERSES, *PRODUCTS, *TRAJECTORIES, *ESTIMATORS, "inverse", "product"}
"""Names that mean something on the edges of a program that trains its uppers."""


def valuation_names() -> list[str]:
    return [AUTO, *sorted(VALUATIONS)]


def valuation_issues(value: Any) -> list[Issue]:
    """Everything wrong with the ``method`` of an edge to example weights, in the order in which it is written."""
    if isinstance(value, str):
        return list(_name_issues(value, ()))
    if not isinstance(value, Mapping):
        return [Issue(code="wrong-type", message=f"found {shown(value)}", expected=FORMS)]
    if halves := [key for key in ("inverse", "product") if key in value]:
        message = f"example weights have no {halves[0]}: no hypergradient is taken"
        return [Issue(code="unknown-method", message=message, at=(halves[0],), expected=FORMS)]
    if "name" not in value:
        return [Issue(code="missing-field", message="missing field 'name'", expected=one_of(valuation_names()))]
    return list(_mapping_issues(value))


def _mapping_issues(value: Mapping[str, Any]) -> Iterator[Issue]:
    name = value["name"]
    wrong = list(_name_issues(name, ("name",)))
    yield from wrong
    if not wrong:
        rest = {key: one for key, one in value.items() if key != "name"}
        known = {} if name == AUTO else VALUATIONS[name].options
        yield from option_issues(f"method {name!r}", known, rest, ())


def _name_issues(name: Any, at: Field) -> Iterator[Issue]:
    allowed = valuation_names()
    if not isinstance(name, str):
        yield Issue(code="wrong-type", message=f"found {shown(name)}", at=at, expected=one_of(allowed))
    elif name not in allowed:
        message = f"{name!r} is not a valuation method"
        if name in TRAINING:
            message = f"{name!r} trains an upper, and example weights are not trained"
        yield unknown_name("unknown-method", message, name, allowed, at, "name: " if at else "method: ")


def to_valuation(value: str | Mapping[str, Any]) -> ValuationMethod | None:
    """The method that a checked ``value`` stands for; ``None`` for ``auto``."""
    name = value if isinstance(value, str) else value["name"]
    if name == AUTO:
        return None
    options = {} if isinstance(value, str) else {key: one for key, one in value.items() if key != "name"}
    return valuation(name, options)
