"""The networks and the side-by-side timing that the benchmarks share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = 9
"""Blocks in which the candidates are timed in turn; the median block counts."""


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


class Encoder(nn.Module):
    """Two transformer layers over 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x).mean(1))
        return out


class Block(nn.Module):
    """Two convolutions with batch normalisation, and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        self.around = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(out)) + self.around(x))


def resnet() -> nn.Module:
    """Six blocks on images of 32 by 32."""
    stages = [
        Block(16, 16, 1),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 32, 1),
        Block(32, 64, 2),
        Block(64, 64, 1),
    ]
    stem = (nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


PROGRAMS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (mlp, (64, 64)),
    "encoder": (Encoder, (32, 16, 128)),
    "ResNet": (resnet, (16, 3, 32, 32)),
}
"""What makes the lower's module, and the shape of its micro-batches."""


def batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return torch.randn(shape), torch.randint(0, 10, (shape[0],))


def seconds(run: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def side_by_side(runs: Sequence[Callable[[], object]], repeats: int = 5, blocks: int = BLOCKS) -> list[float]:
    """Median seconds of a call of each, timed in turn within one process so that all see the same machine."""
    for run in runs:
        seconds(run, 2)
    table = [[seconds(run, repeats) for run in runs] for _ in range(blocks)]
    return [statistics.median(column) for column in zip(*table, strict=True)]


def ratios(runs: Sequence[Callable[[], object]], repeats: int = 5, blocks: int = BLOCKS) -> list[float]:
    """Median over blocks of the time of each in units of the first: what disturbs a block disturbs all of them."""
    for run in runs:
        seconds(run, 2)
    table = [[seconds(run, repeats) for run in runs] for _ in range(blocks)]
    return [statistics.median(row[index] / row[0] for row in table) for index in range(len(runs))]
