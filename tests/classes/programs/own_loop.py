"""A loop of one's own around the engine: learning-rate search for ridge regression, with an optimiser step by hand."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem

FEATURES = 5


def examples(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(20, FEATURES, generator=generator)
    return inputs, inputs @ torch.arange(FEATURES, dtype=torch.float32) + torch.randn(20, generator=generator)


class Decay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_decay = nn.Parameter(torch.zeros(FEATURES))

    def forward(self) -> Tensor:
        return self.log_decay.exp()


class Ridge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight


class Lower(ImplicitProblem):
    upper: Upper

    def training_step(self, batch: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        (inputs, targets), (more_inputs, more_targets) = batch
        fits = [((self(x) - y) ** 2).mean() for x, y in ((inputs, targets), (more_inputs, more_targets))]
        penalty = (self.upper() * self.module.weight**2).sum()
        return {"loss": fits[0] + fits[1] + penalty, "penalty": penalty}

    def parameters(self) -> list[Tensor]:
        return [self.module.weight]

    def custom_optimizer_step(self) -> None:
        with torch.no_grad():
            for parameter in self.trainable_parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=0.05)


class Upper(ImplicitProblem):
    lower: Lower

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return ((self.lower(inputs) - targets) ** 2).mean()


def build() -> Engine:
    lower = Lower(name="lower", config=Config(type="cg", cg_iterations=5, unroll_steps=5), module=Ridge())
    lower.set_train_data_loader(([examples(0)], [examples(1), examples(2)]))
    decay = Decay()
    upper = Upper(name="upper", config=Config(log_step=5, log_local_step=True), module=nn.Linear(1, 1))
    upper.set_module(decay)
    upper.set_optimizer(torch.optim.Adam(decay.parameters(), lr=0.1))
    upper.set_scheduler(torch.optim.lr_scheduler.ConstantLR(upper.optimizer, factor=1.0))
    upper.set_train_data_loader([examples(3)])
    engine = Engine(problems=[lower, upper], config=EngineConfig(train_iters=100))
    engine.set_dependency({"u2l": {upper: [lower]}, "l2u": {lower: [upper]}})
    return engine


def main(steps: int = 100) -> Engine:
    """Every step, every restart and every message by hand."""
    engine = build()
    lower, upper = engine.problems
    assert lower.leaf and lower.parents == [upper] and upper.children == [lower] and upper.scaler is None
    engine.train()
    for _ in range(steps):
        engine.global_step += 1
        ready = upper.check_ready()
        engine.train_step()
        assert not ready and lower.cur_batch is not None
        if engine.global_step % 20 == 0 and lower.is_rank_zero():
            lower.log({"decay": upper().mean(), "batches": lower.count}, engine.global_step)
    kept = copy.deepcopy(upper.state_dict())
    upper.module.log_decay.data.zero_()
    upper.load_state_dict(kept)
    for leaf in engine.leaves:
        leaf.step(global_step=engine.global_step)
    return engine


if __name__ == "__main__":
    main()
