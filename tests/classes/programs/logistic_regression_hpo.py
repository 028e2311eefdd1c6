"""One weight decay for every feature of a logistic regression, found on validation data.

A few features carry the label and many are noise; there are hardly more training examples than features. The lower
problem starts anew at the beginning of every unroll.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem

FEATURES, INFORMATIVE = 20, 4


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, FEATURES, generator=generator)
    scores = inputs[:, :INFORMATIVE].sum(dim=1) + torch.randn(count, generator=generator)
    return inputs, (scores > 0).float()


class ParentNet(nn.Module):
    """The logarithm of every feature's weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((FEATURES,), -3.0))

    def forward(self) -> Tensor:
        return self.w.exp()


class ChildNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs @ self.w, self.w


class Outer(ImplicitProblem):
    inner: Inner

    def forward(self) -> Tensor:
        decay: Tensor = self.module()
        return decay

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        outputs = self.inner(inputs)[0]
        return F.binary_cross_entropy_with_logits(outputs, labels)


class Inner(ImplicitProblem):
    outer: Outer

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        outputs, weights = self.forward(inputs)
        loss = F.binary_cross_entropy_with_logits(outputs, labels)
        penalty = 0.5 * weights.unsqueeze(0) @ torch.diag(self.outer()) @ weights.unsqueeze(1)
        return loss + penalty.sum()

    def on_inner_loop_start(self) -> None:
        self.module.w.data.zero_()


class HPOEngine(Engine):
    inner: Inner
    outer: Outer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.history: list[float] = []
        self.test_set = examples(500, seed=2)

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        inputs, labels = self.test_set
        outputs = self.inner(inputs)[0]
        loss = F.binary_cross_entropy_with_logits(outputs, labels).item()
        accuracy = ((outputs > 0) == (labels > 0.5)).float().mean().item()
        self.history.append(loss)
        return {"loss": loss, "acc": 100.0 * accuracy}


def build(
    method: str = "cg", train_iters: int = 2500, unroll_steps: int = 100, stop: bool = True, tolerance: int = 3
) -> HPOEngine:
    """The engine; ``method`` is how the regression responds to its weight decay."""
    outer_config = Config(type="darts", log_step=-1)
    inner_config = Config(
        type=method,
        unroll_steps=unroll_steps,
        cg_iterations=5,
        cg_alpha=1.0,
        neumann_iterations=5,
        neumann_alpha=0.5,
        darts_alpha=0.1,
    )
    parent, child = ParentNet(), ChildNet()
    outer = Outer(
        name="outer",
        config=outer_config,
        module=parent,
        optimizer=torch.optim.Adam(parent.parameters(), lr=0.3),
        train_data_loader=[examples(100, seed=1)],
    )
    inner = Inner(
        name="inner",
        config=inner_config,
        module=child,
        optimizer=torch.optim.SGD(child.parameters(), lr=0.5),
        train_data_loader=[examples(40, seed=0)],
    )
    engine_config = EngineConfig(
        train_iters=train_iters,
        valid_step=unroll_steps,
        early_stopping=stop,
        early_stopping_metric="loss",
        early_stopping_mode="min",
        early_stopping_tolerance=tolerance,
    )
    dependencies = {"u2l": {outer: [inner]}, "l2u": {inner: [outer]}}
    return HPOEngine(config=engine_config, problems=[outer, inner], dependencies=dependencies)


def main(**options: Any) -> HPOEngine:
    engine = build(**options)
    engine.run()
    return engine


if __name__ == "__main__":
    main()
