"""A method as a spec spells it."""

from __future__ import annotations

from typing import Any

from betty.ir.methods import INVERSES, PRESETS, PRODUCTS, UNPAIRED, Declared, Method, preset
from betty.ir.records import Call, Value

Spelled = str | dict[str, Any]


def to_value(method: Method) -> Spelled:
    """The shortest form of ``method`` in a spec: a preset, a preset with options, or an inverse and a product."""
    if name := preset_of(method):
        options = _changed(method.solver, INVERSES.get(method.solver.name) or UNPAIRED[method.solver.name])
        if method.product is not None:
            options |= _changed(method.product, PRODUCTS[method.product.name])
        return {"name": name, **options} if options else name
    assert method.product is not None, "every method without a product is a preset"
    return {
        "inverse": _half(method.solver, INVERSES[method.solver.name]),
        "product": _half(method.product, PRODUCTS[method.product.name]),
    }


def preset_of(method: Method) -> str:
    """The preset of this inverse and product, or of this method without a product; empty where there is none."""
    return next((name for name in PRESETS if _names(preset(name)) == _names(method)), "")


def to_flow(value: Spelled | Value) -> str:
    """``value`` as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {to_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        digits, exponent, power = repr(value).partition("e")
        # Without a point YAML 1.1 takes a number with an exponent for text.
        return digits + (".0" if exponent and "." not in digits else "") + exponent + power
    return "null" if value is None else str(value)


def _names(method: Method) -> tuple[str, str]:
    return method.solver.name, method.product.name if method.product else ""


def _half(call: Call, declared: Declared) -> Spelled:
    options = _changed(call, declared)
    return {"name": call.name, **options} if options else call.name


def _changed(call: Call, declared: Declared) -> dict[str, Value]:
    return {key: value for key, value in call.options if value != declared.options[key].default}
