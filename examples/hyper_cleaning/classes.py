"""The same program in the style of the first Betty: problems as classes, dependencies as lists.

`python examples/hyper_cleaning/classes.py` trains it; `spec.yaml` beside it says the same in other words.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from program import TRAIN, Classifier, clean_digits, correct, noisy_digits, split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem


class Weights(nn.Module):
    """One number for each training example; its weight is that number's sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(TRAIN))

    def forward(self, places: Tensor) -> Tensor:
        return self.logits.sigmoid()[places]


class Lower(ImplicitProblem):
    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, labels, places = batch
        losses = functional.cross_entropy(self(images), labels, reduction="none")
        return (self.weigher(places) * losses).mean()

    def configure_train_data_loader(self) -> DataLoader:
        return DataLoader(noisy_digits(seed=0), batch_size=100, shuffle=True)

    def configure_module(self) -> nn.Module:
        return Classifier(width=64)

    def configure_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.module.parameters(), lr=0.03, momentum=0.9, weight_decay=0.003)


class Upper(ImplicitProblem):
    def training_step(self, batch: list[Tensor]) -> Mapping[str, Tensor]:
        images, labels = batch
        logits = self.classifier(images)
        return {"loss": functional.cross_entropy(logits, labels), "accuracy": correct(logits, labels)}

    def configure_train_data_loader(self) -> DataLoader:
        return DataLoader(clean_digits(seed=0), batch_size=30)

    def configure_module(self) -> nn.Module:
        return Weights()

    def configure_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.module.parameters(), lr=0.1)


class Cleaning(Engine):
    @torch.no_grad()
    def validation(self) -> Mapping[str, Tensor]:
        digits, learned = split(seed=0), self.weigher.module.logits.sigmoid()
        images, labels = digits.test
        return {
            "accuracy": correct(self.classifier(images), labels),
            "weight_clean": learned[~digits.flipped].mean(),
            "weight_flipped": learned[digits.flipped].mean(),
        }


def build(train_iters: int = 1500) -> Cleaning:
    torch.manual_seed(0)
    classifier = Lower(name="classifier", config=Config(type="unrolled", unroll_steps=5))
    weigher = Upper(name="weigher", config=Config())
    return Cleaning(
        problems=[classifier, weigher],
        dependencies={"u2l": {weigher: [classifier]}, "l2u": {classifier: [weigher]}},
        config=EngineConfig(
            name="hyper-cleaning", train_iters=train_iters, valid_step=150, strategy="cpu", log_every=50
        ),
    )


if __name__ == "__main__":
    engine = build()
    print(engine)
    print(engine.run())
