"""Architecture search: mixed operations whose shares are learned on held-out data, with roll-back."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem

CELLS, WIDTH, COUNT = 2, 8, 64
OPERATIONS = 3


def waves(seed: int) -> tuple[Tensor, Tensor]:
    """A product of inputs, which a linear layer cannot give."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(COUNT, 4, generator=generator)
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


class MixedOp(nn.Module):
    """Nothing, a linear layer, or a linear layer with a nonlinearity and batch norm, in shares."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(WIDTH, WIDTH)
        self.curved = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())

    def forward(self, inputs: Tensor, shares: Tensor) -> Tensor:
        outputs = [torch.zeros_like(inputs), self.plain(inputs), self.curved(inputs)]
        return inputs + torch.stack([share * output for share, output in zip(shares, outputs, strict=True)]).sum(0)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, WIDTH)
        self.cells = nn.ModuleList(MixedOp() for _ in range(CELLS))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, inputs: Tensor, alphas: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        for cell, shares in zip(self.cells, F.softmax(alphas, dim=-1), strict=True):
            hidden = cell(hidden, shares)
        logits: Tensor = self.head(hidden)
        return logits

    def loss(self, inputs: Tensor, alphas: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self(inputs, alphas), labels)


class Architecture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(1e-3 * torch.randn(CELLS, OPERATIONS))

    def forward(self) -> Tensor:
        return self.alphas


class Outer(ImplicitProblem):
    classifier: Classifier

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        alphas = self.forward()
        loss: Tensor = self.classifier.module.loss(inputs, alphas, labels)
        return loss

    def configure_train_data_loader(self) -> Any:
        return [waves(1)]

    def configure_module(self) -> nn.Module:
        return Architecture()

    def configure_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.module.parameters(), lr=0.05, betas=(0.5, 0.999), weight_decay=1e-3)


class Classifier(ImplicitProblem):
    outer: Outer

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        alphas = self.outer()
        loss: Tensor = self.module.loss(inputs, alphas, labels)
        return loss

    def configure_train_data_loader(self) -> Any:
        inputs, labels = waves(0)
        return [(inputs[half], labels[half]) for half in torch.arange(COUNT).split(COUNT // 2)]

    def configure_module(self) -> nn.Module:
        return Network()

    def configure_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.module.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-4)

    def configure_scheduler(self) -> Any:
        return torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 200, eta_min=1e-3)


class NASEngine(Engine):
    outer: Outer
    classifier: Classifier

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        inputs, labels = waves(2)
        logits = self.classifier(inputs, self.outer())
        return {"acc": 100 * (logits.argmax(dim=1) == labels).float().mean().item()}


def build(train_iters: int = 200, roll_back: bool = True, unroll_steps: int = 1) -> NASEngine:
    torch.manual_seed(0)
    outer = Outer(name="outer", config=Config(retain_graph=True))
    classifier = Classifier(name="classifier", config=Config(type="darts", unroll_steps=unroll_steps))
    dependencies = {"l2u": {classifier: [outer]}, "u2l": {outer: [classifier]}}
    config = EngineConfig(valid_step=50, train_iters=train_iters, roll_back=roll_back)
    return NASEngine(config=config, problems=[outer, classifier], dependencies=dependencies)


def main(**options: Any) -> NASEngine:
    engine = build(**options)
    engine.run()
    return engine


if __name__ == "__main__":
    main()
