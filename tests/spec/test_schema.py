"""The JSON Schema agrees with the loader on what is right and what is wrong."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from betty.ir.diagnostics import SpecError
from betty.spec.load import load
from betty.spec.schema import json_schema
from betty.spec.source import read_yaml
from tests.spec.support import SPEC, edited, write
from tests.spec.test_field_errors import CASES as FIELDS
from tests.spec.test_method_errors import CASES as METHODS

VALIDATOR = jsonschema.Draft202012Validator(json_schema())
RIGHT = {
    "as it is": SPEC,
    "shorthand optimizer": edited(("{target: program:Sgd, args: {lr: 0.01}}", "torch.optim.SGD")),
    "method by name": edited(("method: auto", "method: cg")),
    "method with options": edited(("method: auto", "method: {name: neumann, alpha: 1, iterations: 3}")),
    "inverse": edited(("method: auto", "method: {inverse: cg}")),
    "both halves": edited(
        ("method: auto", "method: {inverse: {name: cg, damping: 0.1}, product: {name: finite_difference}}")
    ),
    "parameters": edited(("module: program:Weigher", "parameters: {w: {shape: [], init: -4}, v: {init: normal}}")),
    "nothing where nothing is allowed": edited(("unroll: 2", "gradient_clipping: null")),
    "memory": edited(("engine:", "engine:\n  memory: 1.5 GiB")),
    "memory in bytes": edited(("engine:", "engine:\n  memory: 4000000")),
    "device": edited(("engine:", "engine:\n  device: cuda:1\n  precision: bf16\n  log: {every: 3}")),
}
# What a schema cannot say: two keys are one option, JSON has no infinity, and in JSON 100.0 is a whole number.
BEYOND = {"option_given_twice", "not_finite", "fraction_for_a_whole_number"}


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT.keys())
def test_right_specs(tmp_path: Path, text: str) -> None:
    load(write(tmp_path, text))
    assert [error.message for error in VALIDATOR.iter_errors(read_yaml(text, "f").data)] == []


WRONG = {name: case for name, case in {**FIELDS, **METHODS}.items() if name not in BEYOND}


@pytest.mark.parametrize("changes", [changes for changes, _ in WRONG.values()], ids=WRONG.keys())
def test_wrong_specs(tmp_path: Path, changes: list[tuple[str, str]]) -> None:
    with pytest.raises(SpecError):
        load(write(tmp_path, edited(*changes)))
    assert not VALIDATOR.is_valid(read_yaml(edited(*changes), "f").data)


def test_every_field_is_described() -> None:
    models = [json_schema(), *json_schema()["$defs"].values()]
    objects = [part for model in models for part in (model, *model.get("anyOf", [])) if "properties" in part]
    assert len(objects) > 10
    missing = [name for part in objects for name, field in part["properties"].items() if "description" not in field]
    assert missing == []


def test_the_text_of_the_schema_is_plain() -> None:
    assert yaml.safe_load(yaml.safe_dump(json_schema())) == json_schema()
