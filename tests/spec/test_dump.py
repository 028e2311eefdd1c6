"""Specs written as YAML."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from betty.spec.dump import live_name, to_yaml
from betty.spec.fields import Target
from betty.spec.frontend import compile_source
from betty.spec.load import load
from betty.spec.models import ProblemSpec, Spec
from tests.spec.support import SPEC, write
from tests.spec.test_schema import RIGHT


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT.keys())
def test_round_trip(tmp_path: Path, text: str) -> None:
    spec = load(write(tmp_path, text)).spec
    again = load(write(tmp_path, to_yaml(spec))).spec
    assert again == spec
    assert to_yaml(again) == to_yaml(spec)


def test_the_text(tmp_path: Path) -> None:
    spec = load(write(tmp_path, SPEC), ["engine.seed=3", "edges.0.method={name: cg, tolerance: 1e-6}"]).spec
    text = to_yaml(spec)
    assert text.endswith(
        "edges:\n"
        "  - upper: weigher\n"
        "    lower: classifier\n"
        "    method:\n"
        "      name: cg\n"
        "      tolerance: 1.0e-06\n"
        "engine:\n"
        "  iterations: 100\n"
        "  seed: 3\n"
        "  validate:\n"
        "    target: program:accuracy\n"
        "    every: 10\n"
        "  early_stopping:\n"
        "    metric: accuracy\n"
        "    mode: max\n"
        "  checkpoint:\n"
        "    every: 20\n"
    )
    assert "    optimizer:\n      target: program:Sgd\n      lr: 0.01\n" in text


@pytest.mark.parametrize(
    "value",
    [
        "on",
        "yes",
        "1e-3",
        "010",
        "0o7",
        "~",
        "1_000",
        "a: b",
        "é",
        " x",
        "<<",
        "2024-01-01",
        "\x85",
        "a\u2028b",
        "a\nb\u2029",
    ],
)
def test_text_stays_text(tmp_path: Path, value: str) -> None:
    problem = ProblemSpec(module=Target(target="a:b", args={"x": value, "y": [value]}), loss=Target(target="a:f"))
    spec = Spec(name="x", problems={"p": problem})
    assert load(write(tmp_path, to_yaml(spec))).spec == spec


class Net:
    def step(self) -> None: ...


def make(width: int = 1) -> Net:
    return Net()


def test_live_objects_are_named() -> None:
    assert live_name(Net) == f"{__name__}:Net"
    assert live_name(make) == f"{__name__}:make"
    assert live_name(Net.step) == f"{__name__}:Net.step"
    assert live_name(Net()) == "<object of Net>"
    assert live_name(lambda: None) == "<test_live_objects_are_named.<locals>.<lambda>>"
    assert live_name(functools.partial(make, width=3)) == f"<{__name__}:make with width>"


def test_a_live_spec_can_be_written() -> None:
    def local(p: Any) -> float:
        return 0.0

    problem = ProblemSpec(module=Target(target=Net, args={"net": Net()}), loss=Target(target=local))
    assert to_yaml(Spec(name="x", problems={"p": problem})) == (
        "name: x\n"
        "problems:\n"
        "  p:\n"
        "    module:\n"
        f"      target: {__name__}:Net\n"
        "      args:\n"
        "        net: <object of Net>\n"
        "    loss: <test_a_live_spec_can_be_written.<locals>.local>\n"
    )


def test_objects_of_a_program_are_named_as_its_spec_names_them(tmp_path: Path) -> None:
    resolved = compile_source(write(tmp_path)).resolved
    assert resolved is not None
    assert live_name(resolved.problems["weigher"].loss) == "program:clean_loss"
