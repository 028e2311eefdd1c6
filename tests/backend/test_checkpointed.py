"""Activation checkpointing evaluates a module again in the backward pass: that must see the same tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from betty import Engine

PROGRAM = """\
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self, again):
        super().__init__()
        self.again, self.layers = again, nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x):
        return checkpoint(self.layers, x, use_reentrant=False) if self.again else self.layers(x)


def data():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 4, generator=generator), torch.randn(8, 1, generator=generator))]


def fit(batch, net, decay):
    norm = sum((decay.parameters["log"].exp() * p.square()).sum() for p in net.parameters.values())
    return (net(batch[0]) - batch[1]).square().mean() + norm


def judge(batch, net):
    return (net(batch[0]) + batch[1]).square().mean()
"""


REMAT = {"name": "unrolled", "remat": True}


def spec(again: bool, method: object) -> dict[str, object]:
    sgd = {"target": "torch.optim.SGD", "lr": 0.05, "momentum": 0.5}
    net = {"module": {"target": "program:Net", "args": {"again": again}}, "loss": "program:fit", "data": "program:data"}
    decay = {"parameters": {"log": {"init": -2.0}}, "loss": "program:judge", "data": "program:data", "optimizer": sgd}
    return {
        "name": "checkpointed",
        "problems": {"net": {**net, "optimizer": sgd, "unroll": 3}, "decay": decay},
        "edges": [{"upper": "decay", "lower": "net", "method": method}],
        "engine": {"device": "cpu", "precision": "fp64"},
    }


@pytest.mark.parametrize("method", ["finite_difference", "cg", "neumann", "unrolled", REMAT])
def test_checkpointing_changes_no_hypergradient(
    method: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    found = []
    for again in (False, True):
        engine = Engine(spec(again, method))
        engine.run(7)
        found.append(engine.hypergradient("decay")["log"])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)
