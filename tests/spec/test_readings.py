"""Hyperparameters and starts that are read from other problems: what a spec may say, and the errors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from betty import Engine
from betty.ir.diagnostics import SpecError
from betty.spec.dump import to_yaml
from betty.spec.load import load
from betty.spec.schema import json_schema

PROGRAM = """\
import torch
from torch import nn


def net(width=1):
    return nn.Linear(2, width)


def data():
    return [(torch.ones(4, 2), torch.zeros(4, 1))]


def fit(batch, net):
    return (net(batch[0]) - batch[1]).square().mean()


def near(batch, net, meta):
    pairs = zip(net.parameters.values(), meta.parameters.values())
    return fit(batch, net) + sum((a - b).square().sum() for a, b in pairs)


def judge(batch, net):
    return (net(batch[0]) - batch[1]).square().mean()
"""

SGD = {"target": "torch.optim.SGD", "lr": 0.1}
SPEC: dict[str, Any] = {
    "name": "tuned",
    "problems": {
        "net": {
            "module": "program:net",
            "loss": "program:fit",
            "data": "program:data",
            "optimizer": {
                "target": "torch.optim.SGD",
                "lr": {"from": "tuner.log_rate", "transform": "exp"},
                "momentum": {"from": "tuner.momentum", "transform": "sigmoid"},
            },
        },
        "tuner": {
            "parameters": {
                "log_rate": {"init": -2.0},
                "momentum": {"shape": [1], "init": -1.0},
                "many": {"shape": [3]},
            },
            "loss": "program:judge",
            "data": "program:data",
            "optimizer": SGD,
        },
    },
    "edges": [{"upper": "tuner", "lower": "net", "method": "unrolled"}],
    "engine": {"device": "cpu", "precision": "fp64"},
}


@pytest.fixture(autouse=True)
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)


def changed(path: str, value: Any) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    *front, last = path.split(".")
    place: Any = spec
    for part in front:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
    return spec


def test_a_tuned_optimiser_learns() -> None:
    engine = Engine(SPEC)
    engine.run(3)
    found = engine.hypergradient("tuner")
    assert float(found["log_rate"]) != 0
    assert found["momentum"].shape == (1,)


def test_a_written_spec_reads_back_the_same() -> None:
    first = load(SPEC).spec
    assert load(yaml.safe_load(to_yaml(first))).spec == first


def test_the_schema_knows_where_a_problem_may_start() -> None:
    problem = json_schema()["$defs"]["ProblemSpec"]["properties"]
    assert "initial" in problem
    assert json_schema()["$defs"]["StartSpec"]["required"] == ["from"]


LR = "problems.net.optimizer.lr"
WRONG = [
    (LR, {"from": "tunr.log_rate"}, "there is no problem 'tunr'", "from: tuner.log_rate"),
    (LR, {"from": "net.weight"}, "problem 'net' cannot read itself", ""),
    (LR, {"from": "tuner.log_rte"}, "problem 'tuner' has no parameter 'log_rte'", "from: tuner.log_rate"),
    (LR, {"from": "tuner.many"}, "the parameter 'many' of 'tuner' has the shape [3]", ""),
    (LR, {"from": "tuner.log_rate", "transform": "expp"}, "'expp' is no transform", "exp"),
    (LR, {"from": "tuner.log_rate", "transfrom": "exp"}, "'transfrom' is no part of a hyperparameter", "transform"),
    (LR, {"from": "tuner"}, "found 'tuner' (text)", ""),
    (LR, {"transform": "exp"}, "it is not said which parameter", ""),
    ("problems.net.optimizer.lrr", {"from": "tuner.log_rate"}, "takes no argument 'lrr'", "lr"),
    (
        "problems.net.scheduler",
        {"target": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.9},
        "'lr' of 'net' is read from 'tuner', and its scheduler sets it as well",
        "remove the scheduler",
    ),
    ("edges.0.method", "cg", "'cg' looks at the loss of 'net', which does not read 'tuner'", "method: unrolled"),
    ("edges.0.flow", "up", "the updates of 'net' read 'tuner', but no flow brings it", "flow: both on the edge"),
    ("problems.net.initial", {"from": "tunr"}, "there is no problem 'tunr'", "from: tuner"),
    ("problems.net.initial", {"from": "tuner"}, "the parameters of 'tuner' have other shapes than those of 'net'", ""),
    ("problems.net.initial", {"form": "tuner"}, "'form'", "from"),
]


@pytest.mark.parametrize(("path", "value", "message", "hint"), WRONG, ids=[f"{w[0]}={w[1]}" for w in WRONG])
def test_a_mistake_is_named_where_it_is(path: str, value: Any, message: str, hint: str) -> None:
    spec = changed(path, value)
    Path("spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    with pytest.raises(SpecError) as caught:
        Engine("spec.yaml")
    text = str(caught.value)
    assert message in text
    assert hint in text
    assert "spec.yaml:" in text
    assert ".args" not in text.split("try", maxsplit=1)[0].split("takes no", maxsplit=1)[0]


def test_a_start_without_an_optimizer() -> None:
    spec = changed("problems.net.initial", {"from": "tuner"})
    del spec["problems"]["net"]["optimizer"]
    with pytest.raises(SpecError, match="begins anew and has no optimizer to move on"):
        Engine(spec)
