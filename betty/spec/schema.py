"""The JSON Schema of spec files, so that editors complete and check them."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import Any

from betty.ir.methods import AUTO, INVERSES, PRODUCTS, Declared, Option
from betty.ir.valuations import VALUATIONS
from betty.spec.method import method_names, preset_options
from betty.spec.models import EngineSpec, Spec
from betty.spec.valuation_method import valuation_names

DIALECT = "https://json-schema.org/draft/2020-12/schema"
IDENTIFIER = "betty-spec.schema.json"
TARGET = r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[A-Za-z_]\w*(\.[A-Za-z_]\w*)+)$"
TARGETS = ("Target", "DataSpec", "OptimizerSpec", "SchedulerSpec", "ValidateSpec")
OPEN = ("OptimizerSpec", "SchedulerSpec")
RUN_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
DEVICE = r"^(auto|cpu|mps|cuda(:\d{1,4})?|xpu(:\d{1,4})?)$"


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec file, short forms included."""
    schema = Spec.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    for name in TARGETS:
        definitions[name] = _with_shorthand(definitions[name], is_open=name in OPEN)
    definitions["EdgeSpec"]["properties"]["method"] = _method(definitions["EdgeSpec"]["properties"]["method"])
    definitions["EngineSpec"]["properties"]["device"]["pattern"] = DEVICE
    for properties, model, name in (
        (schema["properties"], Spec, "engine"),
        (definitions["EngineSpec"]["properties"], EngineSpec, "log"),
    ):
        # A bare reference is written without the description of its field.
        properties[name].setdefault("description", model.model_fields[name].description)
    schema["properties"]["name"]["pattern"] = RUN_NAME
    schema["properties"]["problems"]["propertyNames"] = _names()
    schema["properties"]["problems"]["minProperties"] = 1
    return {"$schema": DIALECT, "$id": IDENTIFIER, **schema, "title": "betty spec"}


def _names() -> dict[str, Any]:
    return {"pattern": r"^[^\W\d]\w*$", "not": {"enum": ["batch", *keyword.kwlist]}}


def _with_shorthand(model: dict[str, Any], is_open: bool) -> dict[str, Any]:
    """The model as an object or as the bare text of its target."""
    model["properties"]["target"]["pattern"] = TARGET
    if is_open:
        model["additionalProperties"] = True
    description = model.pop("description", "")
    text = {"type": "string", "pattern": TARGET, "description": "The target alone: `module:name` or a dotted name."}
    return {"description": description, "anyOf": [text, model]}


def _method(field: dict[str, Any]) -> dict[str, Any]:
    names = dict.fromkeys([*method_names(), *valuation_names()])
    forms = [{"enum": list(names)}, *(_call(name, preset_options(name)) for name in method_names())]
    forms += [_call(name, declared.options) for name, declared in sorted(VALUATIONS.items()) if declared.options]
    return {"anyOf": [*forms, _pair()], "default": AUTO, "description": field["description"]}


def _call(name: str, options: Mapping[str, Option]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, **{key: _option(option) for key, option in options.items()}},
        "required": ["name"],
        "additionalProperties": False,
    }


def _option(option: Option) -> dict[str, Any]:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    kind = kinds[option.kind]
    schema: dict[str, Any] = {
        "type": [kind, "null"] if option.optional else kind,
        "description": option.help,
        "default": option.default,
    }
    limits = {"minimum": option.minimum, "maximum": option.maximum, "enum": list(option.choices) or None}
    return {**schema, **{key: value for key, value in limits.items() if value is not None}}


def _pair() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"inverse": _half(INVERSES), "product": _half(PRODUCTS)},
        "required": ["inverse"],
        "additionalProperties": False,
    }


def _half(table: Mapping[str, Declared]) -> dict[str, Any]:
    names = {"enum": sorted(table), "description": "; ".join(f"{key}: {one.summary}" for key, one in table.items())}
    return {"anyOf": [names, *(_call(name, declared.options) for name, declared in table.items())]}
