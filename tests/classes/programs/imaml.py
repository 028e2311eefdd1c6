"""iMAML on sine waves: an environment draws tasks; the inner problem stays near the outer one, which sees many."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.envs import Env
from betty.problems import ImplicitProblem

SHOTS, TASKS = 10, 4


class SineEnv(Env):
    """Draws a sine wave: points to fit, and points to be measured by."""

    outer: Outer
    inner: Inner

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.batch: dict[str, tuple[Tensor, Tensor]] = {}
        self.drawn = 0

    def reset(self) -> None:
        self.drawn = 0

    def step(self) -> None:
        self.drawn += 1
        phase, height = torch.rand(2, generator=self.generator).tolist()
        self.batch = {part: self.points(phase * math.pi, 0.5 + 2 * height) for part in ("train", "test")}

    def points(self, phase: float, height: float) -> tuple[Tensor, Tensor]:
        inputs = 10 * torch.rand(SHOTS, 1, generator=self.generator) - 5
        return inputs / 5, height * torch.sin(inputs + phase)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


class Outer(ImplicitProblem):
    inner: Inner
    env: SineEnv

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.history: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        inputs, targets = batch
        loss = F.mse_loss(self.inner(inputs), targets)
        acc = (loss.detach() < 0.5).float()
        self.history.append(loss.item())
        return {"loss": loss, "acc": acc}

    def get_batch(self) -> tuple[Tensor, Tensor]:
        return self.env.batch["test"]

    def configure_module(self) -> nn.Module:
        return network()

    def configure_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.module.parameters(), lr=1e-2)


class Inner(ImplicitProblem):
    outer: Outer
    env: SineEnv

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        pairs = zip(self.parameters(), self.outer.parameters(), strict=True)
        proximal = sum(((own - start) ** 2).sum() for own, start in pairs)
        return F.mse_loss(self(inputs), targets) + self.cfg["proximal"] * proximal

    def on_inner_loop_start(self) -> None:
        self.module.load_state_dict(self.outer.module.state_dict())

    def get_batch(self) -> tuple[Tensor, Tensor]:
        return self.env.batch["train"]

    def configure_module(self) -> nn.Module:
        return network()

    def configure_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.module.parameters(), lr=0.05)


class MetaEngine(Engine):
    """A step of this engine is a whole task."""

    inner: Inner
    outer: Outer
    env: SineEnv

    def train_step(self) -> None:
        self.env.step()
        for _ in range(self.inner.config.unroll_steps):
            for leaf in self.leaves:
                leaf.step(global_step=self.global_step)


def build(method: str = "darts", train_iters: int = 240, unroll_steps: int = 5) -> MetaEngine:
    torch.manual_seed(0)
    outer = Outer(name="outer", config=Config(log_step=-1, retain_graph=True, gradient_accumulation=TASKS))
    inner = Inner(
        name="inner",
        config=Config(type=method, unroll_steps=unroll_steps, cg_iterations=3),
        extra_config={"proximal": 0.25},
    )
    dependencies = {"u2l": {outer: [inner]}, "l2u": {inner: [outer]}}
    config = EngineConfig(train_iters=train_iters, logger_type="none")
    return MetaEngine(config=config, problems=[outer, inner], dependencies=dependencies, env=SineEnv(seed=0))


def main(**options: Any) -> MetaEngine:
    engine = build(**options)
    engine.env.reset()
    engine.run()
    return engine


if __name__ == "__main__":
    main()
