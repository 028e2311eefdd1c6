"""A small program on generated data: a classifier on noisy labels, example weights learned on clean ones."""

from __future__ import annotations

from pathlib import Path

import pytest

PROGRAM = """\
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

torch.set_num_threads(1)


def blobs(count, noise=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (count,), generator=generator)
    x = torch.randn(count, 4, generator=generator) + 2.0 * F.one_hot(y, 4)
    flip = torch.rand(count, generator=generator) < noise
    return TensorDataset(x, torch.where(flip, (y + 1) % 3, y), torch.arange(count))


class Net(nn.Module):
    def __init__(self, width=8, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 3)
        )

    def forward(self, x):
        return self.layers(x)


def weighted(batch, classifier, weigher):
    x, y, index = batch
    weight = torch.sigmoid(weigher.parameters["logit"][index])
    return (weight * F.cross_entropy(classifier(x), y, reduction="none")).mean()


def clean(batch, classifier):
    x, y, _ = batch
    out = classifier(x)
    return {"loss": F.cross_entropy(out, y), "accuracy": (out.argmax(1) == y).float().mean()}


def accuracy(classifier):
    assert not classifier.module.training
    x, y, _ = blobs(200, seed=9).tensors
    return {"accuracy": (classifier(x).argmax(1) == y).float().mean()}
"""

SPEC = """\
name: blobs
problems:
  classifier:
    module: {target: program:Net, args: {dropout: 0.2}}
    loss: program:weighted
    data: {target: program:blobs, args: {count: 96, noise: 0.3}, batch_size: 32}
    optimizer: {target: torch.optim.SGD, lr: 0.1, momentum: 0.9}
  weigher:
    parameters: {logit: {shape: [96]}}
    loss: program:clean
    data: {target: program:blobs, args: {count: 32, seed: 1}, batch_size: 16}
    optimizer: {target: torch.optim.Adam, lr: 0.1}
edges:
  - {upper: weigher, lower: classifier, method: finite_difference}
engine:
  iterations: 12
  device: cpu
  log: {every: 4}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The spec's path; the working directory is beside it, so that runs go to a folder of the test."""
    folder = tmp_path / "blobs"
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    path = folder / "spec.yaml"
    path.write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return path
