"""``{spec-reference}``: tables of every field of a spec, from the JSON Schema of the models."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from betty.ir.records import Flow
from betty.spec import models
from betty.spec.models import Spec

Schema = Mapping[str, Any]

NAMES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "object": "mapping",
    "array": "list",
    "null": "empty",
}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def reference() -> str:
    """The whole reference as Markdown: one section a model, in the order in which a spec mentions them."""
    schema = Spec.model_json_schema(by_alias=True)
    definitions: dict[str, Schema] = {"Spec": schema, **schema.get("$defs", {})}
    places = _places(definitions)
    return "\n\n".join(_section(name, definitions[name], places[name]) for name in places)


def _places(definitions: Mapping[str, Schema]) -> dict[str, list[str]]:
    """Where each model stands in a spec, breadth first: ``{"DataSpec": ["problems.<name>.data"]}``."""
    found: dict[str, list[str]] = {"Spec": []}
    front = [("Spec", "")]
    for name, path in front:  # grows while it is walked
        for field, schema in definitions[name].get("properties", {}).items():
            for model, below in _models(schema, f"{path}.{field}" if path else field):
                if model not in found:
                    front.append((model, below))
                found.setdefault(model, []).append(below)
    return found


def _models(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    """The models that a field's schema refers to; simple choices (enumerations) are no models."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if inspect.isclass(getattr(models, name, None)) and name != "Flow":
            yield name, path
    for one in [*schema.get("anyOf", ()), *schema.get("allOf", ())]:
        yield from _models(one, path)
    if isinstance(schema.get("items"), Mapping):
        yield from _models(schema["items"], f"{path}[...]")
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield from _models(schema["additionalProperties"], f"{path}.<name>")


def _section(name: str, schema: Schema, places: list[str]) -> str:
    title = ", ".join(f"`{place}`" for place in places) or "The whole spec"
    docstring = inspect.cleandoc(str(schema.get("description", "")))
    required = set(schema.get("required", ()))
    described = {field: {"description": _described(name, field), **one} for field, one in schema["properties"].items()}
    rows = [_row(field, one, field in required) for field, one in described.items()]
    table = "\n".join(["| Field | Value | Default | Meaning |", "| --- | --- | --- | --- |", *rows])
    return f"(spec-{name.lower()})=\n## {title}\n\n{docstring}\n\n{table}"


def _described(model: str, field: str) -> str:
    """The description of a field; JSON Schema leaves it out where the field is a model with a default of its own."""
    fields = getattr(models, model).model_fields
    return next(one.description or "" for name, one in fields.items() if field in (name, one.alias))


def _row(field: str, schema: Schema, required: bool) -> str:
    default = "required" if required else _default(schema)
    cells = (f"`{field}`", value_text(schema), default, " ".join(str(schema.get("description", "")).split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return "its own defaults"  # a model whose fields all have one
    value = schema["default"]
    return "empty" if value is None else f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def value_text(schema: Schema) -> str:
    """What a value may be, in words, such as ``whole number, at least 1``."""
    if "$ref" in schema:
        return _referred(schema["$ref"].rpartition("/")[2])
    if choices := schema.get("anyOf") or schema.get("allOf"):
        return " or ".join(dict.fromkeys(value_text(one) for one in choices if one.get("type") != "null"))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    text = NAMES.get(str(schema.get("type", "")), "anything")
    inner = schema.get("items", schema.get("additionalProperties"))
    if isinstance(inner, Mapping) and inner:
        text += f" of {value_text(inner)}"
    return ", ".join([text, *(f"{word} {_power(schema[key])}" for key, word in BOUNDS.items() if key in schema)])


def _power(bound: float) -> str:
    """A bound as it is, or as a power of two where that is what it is."""
    exponent = math.frexp(bound)[1] - 1
    return f"2^{exponent}" if bound >= 2**16 and bound == 2**exponent else str(bound)


def _referred(name: str) -> str:
    found = getattr(models, name)
    if issubclass(found, Flow):
        return ", ".join(f"`{flow}`" for flow in Flow)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Spec")).lower()
    return f"[{words}](#spec-{name.lower()})"


class SpecReference(SphinxDirective):
    """Insert :func:`reference`; the page is built anew when the models have changed."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(inspect.getfile(models))
        return self.parse_text_to_nodes(reference(), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("spec-reference", SpecReference)
    return {"parallel_read_safe": True}
