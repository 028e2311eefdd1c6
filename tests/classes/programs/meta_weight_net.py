"""Meta-Weight-Net on handwritten digits with wrong labels: a small net weighs every example by its loss."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, TensorDataset

from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem

TRAIN, META, NOISE, BATCH = 800, 200, 0.4, 100
LIMIT = 3.0


@cache
def digits() -> dict[str, Tensor]:
    """Inputs in [0, 1] and labels; of the training labels four in ten are drawn anew."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    inputs = torch.as_tensor(data.data, dtype=torch.float32)[order] / 16.0
    clean = torch.as_tensor(data.target)[order]
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(TRAIN, generator=generator) < NOISE
    other = (clean[:TRAIN] + torch.randint(1, 10, (TRAIN,), generator=generator)) % 10
    return {
        "inputs": inputs[:TRAIN],
        "labels": torch.where(wrong, other, clean[:TRAIN]),
        "wrong": wrong,
        "meta_inputs": inputs[TRAIN : TRAIN + META],
        "meta_labels": clean[TRAIN : TRAIN + META],
        "test_inputs": inputs[TRAIN + META :],
        "test_labels": clean[TRAIN + META :],
    }


def loader(inputs: Tensor, labels: Tensor, seed: int) -> DataLoader[Any]:
    shuffle = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(inputs, labels), batch_size=BATCH, shuffle=True, generator=shuffle)


class MLP(nn.Module):
    """A weight between 0 and 1 from a loss."""

    def __init__(self, hidden_size: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, hidden_size)
        self.output = nn.Linear(hidden_size, 1)

    def forward(self, losses: Tensor) -> Tensor:
        weights: Tensor = torch.sigmoid(self.output(F.relu(self.hidden(losses))))
        return weights


class Reweight(ImplicitProblem):
    classifier: Classifier

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen = 0

    def forward(self, losses: Tensor) -> Tensor:
        weights: Tensor = self.module(losses)
        return weights

    def training_step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        inputs, labels = batch
        self.seen += len(labels)
        outputs = self.classifier(inputs)
        loss = F.cross_entropy(outputs, labels.long())
        acc = (outputs.argmax(dim=1) == labels.long()).float().mean().item() * 100
        return {"loss": loss, "acc": torch.tensor(acc)}

    def configure_train_data_loader(self) -> DataLoader[Any]:
        data = digits()
        return loader(data["meta_inputs"], data["meta_labels"], seed=3)

    def configure_module(self) -> nn.Module:
        return MLP(hidden_size=32).to(self.device)

    def configure_optimizer(self) -> Optimizer:
        return torch.optim.Adam(self.module.parameters(), lr=3e-3, weight_decay=1e-4)


class Classifier(ImplicitProblem):
    reweight: Reweight

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen = self.clamped = self.graded = self.epochs = 0
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        self.seen += len(labels)
        outputs = self.forward(inputs)
        loss_vector = F.cross_entropy(outputs, labels.long(), reduction="none")
        loss_vector_reshape = loss_vector.reshape(-1, 1)
        weight = self.reweight(loss_vector_reshape.detach())
        loss = torch.sum(weight / weight.sum() * loss_vector_reshape)
        self.losses.append(loss.item())
        return loss

    def configure_train_data_loader(self) -> DataLoader[Any]:
        data = digits()
        return loader(data["inputs"], data["labels"], seed=2)

    def configure_module(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(self.device)

    def configure_optimizer(self) -> Optimizer:
        return torch.optim.SGD(self.module.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)

    def configure_scheduler(self) -> LRScheduler:
        return torch.optim.lr_scheduler.MultiStepLR(self.optimizer, milestones=[200, 300], gamma=0.1)

    def grad_callback(self) -> None:
        self.graded += 1
        for parameter in self.trainable_parameters():
            assert parameter.grad is not None
            parameter.grad.nan_to_num_(0.0)

    def param_callback(self) -> None:
        self.clamped += 1
        for parameter in self.trainable_parameters():
            parameter.data.clamp_(-LIMIT, LIMIT)

    def epoch_callback(self) -> None:
        self.epochs += 1
        if self.is_rank_zero() and self.logger is not None:
            self.logger.info(f"{self.name}: epoch {self.epochs} is over after {self.count} batches")


class ReweightingEngine(Engine):
    classifier: Classifier
    reweight: Reweight
    best_acc = -1.0

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        data = digits()
        outputs = self.classifier(data["test_inputs"])
        acc = 100.0 * (outputs.argmax(dim=1) == data["test_labels"]).float().mean().item()
        self.best_acc = max(self.best_acc, acc)
        return {"acc": acc, "best_acc": self.best_acc}


@torch.no_grad()
def mean_weights(engine: ReweightingEngine) -> tuple[float, float]:
    """Mean weight of the right and of the wrong labels."""
    data = digits()
    losses = F.cross_entropy(engine.classifier(data["inputs"]), data["labels"], reduction="none").reshape(-1, 1)
    weights = engine.reweight(losses).squeeze(1)
    return weights[~data["wrong"]].mean().item(), weights[data["wrong"]].mean().item()


def build(method: str = "darts", train_iters: int = 400, valid_step: int = 50) -> ReweightingEngine:
    reweight = Reweight(name="reweight", config=Config(type="darts", log_step=100))
    classifier = Classifier(name="classifier", config=Config(type=method, unroll_steps=1, log_step=50))
    dependencies = {"u2l": {reweight: [classifier]}, "l2u": {classifier: [reweight]}}
    engine_config = EngineConfig(train_iters=train_iters, valid_step=valid_step)
    return ReweightingEngine(config=engine_config, problems=[reweight, classifier], dependencies=dependencies)


def main(**options: Any) -> ReweightingEngine:
    engine = build(**options)
    engine.run()
    return engine


if __name__ == "__main__":
    main()
