"""The forms in which a spec names a hypergradient method, checked against the tables of ``betty.ir.methods``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from betty.ir.diagnostics import Field, nearest
from betty.ir.methods import (
    AUTO,
    INVERSES,
    PRESETS,
    PRODUCTS,
    UNPAIRED,
    Declared,
    Method,
    Option,
    complete,
    preset,
)
from betty.ir.valuations import VALUATIONS
from betty.spec.issues import Issue, kind_of, one_of, shown, unknown_name

FORMS = "a name, {name: ..., options}, or {inverse: ..., product: ...}"
DEFAULT_PRODUCT = "reverse"


def method_names() -> list[str]:
    return [AUTO, *sorted(PRESETS)]


def method_issues(value: Any) -> list[Issue]:
    """Everything wrong with the ``method`` of an edge, in the order in which it is written."""
    if isinstance(value, str):
        return list(_preset_name_issues(value, ()))
    if not isinstance(value, Mapping):
        return [Issue(code="wrong-type", message=f"found {shown(value)}", expected=FORMS)]
    if "name" in value and ("inverse" in value or "product" in value):
        return [_both_forms(value)]
    if "inverse" in value or "product" in value:
        return list(_pair_issues(value))
    return list(_preset_issues(value))


def _both_forms(value: Mapping[str, Any]) -> Issue:
    """The name of a method and one of its halves stand side by side."""
    name = value["name"]
    if name in UNPAIRED:
        return Issue(code="unknown-method", message=f"{name!r} has neither an inverse nor a product", expected=FORMS)
    inverse = PRESETS[name].inverse if isinstance(name, str) and name in PRESETS else "..."
    hint = f"method: {{inverse: {inverse}, product: {value.get('product', '...')}}}"
    message = "a method is named whole, or by its halves, and here by both"
    return Issue(code="unknown-method", message=message, expected=FORMS, hint=hint)


def to_method(value: str | Mapping[str, Any]) -> Method | None:
    """The method that a checked ``value`` stands for; ``None`` for ``auto``, and for methods of valuation alone."""
    if isinstance(value, str):
        return preset(value) if value in PRESETS else None
    if "inverse" not in value:
        options = {key: one for key, one in value.items() if key != "name"}
        return preset(value["name"], options) if value["name"] in PRESETS else None
    inverse, inverse_options = _split(value["inverse"])
    product, product_options = _split(value.get("product", DEFAULT_PRODUCT))
    return Method(
        solver=complete(inverse, INVERSES[inverse], inverse_options),
        product=complete(product, PRODUCTS[product], product_options),
    )


def preset_options(name: str) -> dict[str, Option]:
    """The options that may stand beside the name of a preset."""
    if name == AUTO:
        return {}
    chosen = PRESETS[name]
    if chosen.alone:
        return dict(UNPAIRED[chosen.alone].options)
    return {**INVERSES[chosen.inverse].options, **PRODUCTS[chosen.product].options}


def _split(value: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    return value["name"], {key: one for key, one in value.items() if key != "name"}


def _preset_name_issues(name: Any, at: Field) -> Iterator[Issue]:
    allowed = method_names()
    if not isinstance(name, str):
        yield Issue(code="wrong-type", message=f"found {shown(name)}", at=at, expected=one_of(allowed))
    elif name in PRODUCTS and name not in PRESETS:
        yield Issue(
            code="unknown-method",
            message=f"{name!r} is a product, which needs an inverse beside it",
            at=at,
            expected=one_of(allowed),
            hint=f"method: {{inverse: identity, product: {name}}}",
        )
    elif name in VALUATIONS and name not in PRESETS:
        yield Issue(
            code="unknown-method",
            message=f"{name!r} values examples, and the upper has no example_weights",
            at=at,
            expected=one_of(allowed),
            hint="example_weights: {} in the upper, in the place of its module or parameters",
        )
    elif name not in allowed:
        message = f"{name!r} is not a hypergradient method"
        lead = "name: " if at else "method: "
        yield unknown_name("unknown-method", message, name, allowed, at, lead)


def _preset_issues(value: Mapping[str, Any]) -> Iterator[Issue]:
    if "name" not in value:
        near = next((found for key in value if (found := nearest(str(key), ["name", "inverse", "product"]))), "")
        yield Issue(
            code="missing-field",
            message="a method needs a name, or an inverse and a product",
            expected=FORMS,
            hint=near,
        )
        return
    name = value["name"]
    wrong = list(_preset_name_issues(name, ("name",)))
    yield from wrong
    if not wrong:
        rest = {key: one for key, one in value.items() if key != "name"}
        yield from option_issues(f"method {name!r}", preset_options(name), rest, ())


def _pair_issues(value: Mapping[str, Any]) -> Iterator[Issue]:
    if "inverse" not in value:
        yield Issue(
            code="missing-field",
            message="a product needs an inverse beside it",
            expected=f"inverse: {one_of(sorted(INVERSES))}",
        )
    for key, one in value.items():
        if key == "inverse":
            yield from _half_issues("inverse", INVERSES, one)
        elif key == "product":
            yield from _half_issues("product", PRODUCTS, one)
        else:
            yield Issue(
                code="unknown-field",
                message=f"unknown field {str(key)!r}",
                at=(key,),
                expected="inverse and product",
                hint=_half_hint(value, str(key)),
                key=True,
            )


def _half_hint(value: Mapping[str, Any], key: str) -> str:
    """Where an option that stands beside the halves belongs."""
    for half, table in (("inverse", INVERSES), ("product", PRODUCTS)):
        name = value.get(half)
        if isinstance(name, str) and name in table and key in table[name].options:
            return f"{half}: {{name: {name}, {key}: ...}}"
    return nearest(key, ["inverse", "product"])


def _half_issues(half: str, table: Mapping[str, Declared], value: Any) -> Iterator[Issue]:
    if not isinstance(value, str | Mapping):
        yield Issue(
            code="wrong-type",
            message=f"found {shown(value)}",
            at=(half,),
            expected=f"a name or a mapping with a {half}",
        )
        return
    at: Field = (half,) if isinstance(value, str) else (half, "name")
    name = value if isinstance(value, str) else value.get("name")
    if name is None:
        yield Issue(code="missing-field", message="missing field 'name'", at=(half,), expected=one_of(sorted(table)))
    elif not isinstance(name, str):
        yield Issue(code="wrong-type", message=f"found {shown(name)}", at=at, expected=one_of(sorted(table)))
    elif name not in table:
        yield _unknown_half(half, sorted(table), name, at)
    elif not isinstance(value, str):
        rest = {key: one for key, one in value.items() if key != "name"}
        yield from option_issues(f"{half} {name!r}", table[name].options, rest, (half,))


def _unknown_half(half: str, allowed: Sequence[str], name: str, at: Field) -> Issue:
    if name in UNPAIRED:
        message = f"{name!r} is a method of its own and has no {half}"
        hint = f"method: {name}"
        return Issue(code="unknown-method", message=message, at=at, expected=one_of(allowed), hint=hint)
    return unknown_name("unknown-method", f"{name!r} is not a known {half}", name, allowed, at, f"{at[-1]}: ")


def option_issues(owner: str, options: Mapping[str, Option], given: Mapping[str, Any], at: Field) -> Iterator[Issue]:
    """What is wrong with the options ``given`` to ``owner``, such as ``method 'cg'``, which takes ``options``."""
    for key, value in given.items():
        if key not in options:
            yield Issue(
                code="unknown-option",
                message=f"{owner} has no option {str(key)!r}",
                at=(*at, key),
                expected=one_of(list(options)) if options else "no options",
                hint=nearest(str(key), list(options)),
                key=True,
            )
        elif wrong := _value_wrong(options[key], value):
            near = nearest(value, options[key].choices) if isinstance(value, str) else ""
            yield Issue(code=wrong[0], message=wrong[1], at=(*at, key), expected=_allowed(options[key]), hint=near)


def _value_wrong(option: Option, value: Any) -> tuple[str, str] | None:
    if value is None and option.optional:
        return None
    fits = isinstance(value, int | float) if option.kind is float else isinstance(value, option.kind)
    if not fits or (isinstance(value, bool) and option.kind is not bool):
        return "wrong-type", f"found {shown(value)}"
    if option.choices and value not in option.choices:
        return "bad-choice", f"found {shown(value)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        below = option.minimum is not None and not value >= option.minimum
        above = option.maximum is not None and not value <= option.maximum
        if below or above or not _finite(value):
            return "out-of-range", f"{shown(value).partition(' (')[0]} is out of range"
    return None


def _finite(value: float) -> bool:
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)


def _allowed(option: Option) -> str:
    kind = one_of(option.choices) if option.choices else kind_of(option.default)
    least = "" if option.minimum is None else f", at least {option.minimum:g}"
    most = "" if option.maximum is None else f", at most {option.maximum:g}"
    return f"{kind}{least}{most}: {option.help}"
