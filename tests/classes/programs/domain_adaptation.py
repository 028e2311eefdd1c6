"""Three levels: pretrain on weighted examples of another domain, finetune near it, learn the weights by the result."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem

SOURCE, TARGET, FEATURES = 120, 30, 6


def domains(seed: int = 0) -> dict[str, Tensor]:
    """Half of the source follows the rule of the target; the other half a rule of its own."""
    generator = torch.Generator().manual_seed(seed)
    rule, other = torch.randn(2, FEATURES, generator=generator)
    source = torch.randn(SOURCE, FEATURES, generator=generator)
    related = torch.arange(SOURCE) < SOURCE // 2
    labels = torch.where(related, source @ rule, source @ other) > 0
    target = torch.randn(3 * TARGET, FEATURES, generator=generator)
    return {"source": source, "labels": labels.float(), "related": related, "target": target,
            "target_labels": (target @ rule > 0).float()}  # fmt: skip


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.linear(inputs)
        return logits.squeeze(1)


class ReweightNet(nn.Module):
    """One number for every example of the source."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(SOURCE))

    def forward(self, index: Tensor) -> Tensor:
        return self.logits[index]


class Pretrain(ImplicitProblem):
    reweight: Reweight

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        inputs, labels, index = batch
        losses = F.binary_cross_entropy_with_logits(self.module(inputs), labels, reduction="none")
        weights = torch.sigmoid(self.reweight(index))
        loss = (weights * losses).mean()
        decay = sum((parameter**2).sum() for parameter in self.module.parameters())
        return {"loss": loss + 0.01 * decay, "plain": losses.mean()}


class Finetune(ImplicitProblem):
    pretrain: Pretrain

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        loss = F.binary_cross_entropy_with_logits(self.module(inputs), labels)
        return loss + 0.3 * self.reg_loss()

    def reg_loss(self) -> Tensor:
        pairs = zip(self.trainable_parameters(), self.pretrain.module.parameters(), strict=True)
        return torch.stack([((own - other) ** 2).sum() for own, other in pairs]).sum()


class Reweight(ImplicitProblem):
    finetune: Finetune
    pretrain: Pretrain

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        loss = F.binary_cross_entropy_with_logits(self.finetune(inputs), labels)
        if len(self.paths) > 1:  # the variant in which pretrain is measured as well
            loss = loss + 0.5 * F.binary_cross_entropy_with_logits(self.pretrain(inputs), labels)
        return loss


class AdaptationEngine(Engine):
    pretrain: Pretrain
    finetune: Finetune
    reweight: Reweight
    data: dict[str, Tensor]

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        inputs, labels = self.data["target"][2 * TARGET :], self.data["target_labels"][2 * TARGET :]
        logits = self.finetune(inputs)
        return {"loss": F.binary_cross_entropy_with_logits(logits, labels).item()}


def build(
    method: str = "darts", two_paths: bool = False, train_iters: int = 300, roll_back: bool = False
) -> AdaptationEngine:
    torch.manual_seed(0)
    data = domains()
    index = torch.arange(SOURCE)
    nets: dict[str, nn.Module] = {"pretrain": Net(), "finetune": Net(), "reweight": ReweightNet()}
    optimizers: dict[str, Any] = {
        "pretrain": torch.optim.SGD(nets["pretrain"].parameters(), lr=0.3, momentum=0.9),
        "finetune": torch.optim.SGD(nets["finetune"].parameters(), lr=0.3),
        "reweight": torch.optim.Adam(nets["reweight"].parameters(), lr=0.1),
    }
    schedulers = {
        name: torch.optim.lr_scheduler.StepLR(optimizer, step_size=1000, gamma=0.2)
        for name, optimizer in optimizers.items()
    }
    loaders = {
        "pretrain": [(data["source"][part], data["labels"][part], index[part]) for part in (index[::2], index[1::2])],
        "finetune": [(data["target"][:TARGET], data["target_labels"][:TARGET])],
        "reweight": [(data["target"][TARGET : 2 * TARGET], data["target_labels"][TARGET : 2 * TARGET])],
    }
    options: dict[str, Any] = {"cg_iterations": 3, "neumann_iterations": 3, "neumann_alpha": 0.2}
    parts = {
        "pretrain": (Pretrain, Config(type=method, unroll_steps=2, **options)),
        "finetune": (Finetune, Config(type=method, unroll_steps=1, **options)),
        "reweight": (Reweight, Config(type="darts", retain_graph=True)),
    }
    problems = {
        name: kind(
            name=name,
            config=config,
            module=nets[name],
            optimizer=optimizers[name],
            scheduler=schedulers[name],
            train_data_loader=loaders[name],
        )
        for name, (kind, config) in parts.items()
    }
    pretrain, finetune, reweight = problems.values()
    up = {pretrain: [finetune, reweight] if two_paths else [finetune], finetune: [reweight]}
    engine = AdaptationEngine(
        config=EngineConfig(train_iters=train_iters, valid_step=100, roll_back=roll_back),
        problems=[reweight, finetune, pretrain],
        dependencies={"u2l": {reweight: [pretrain]}, "l2u": up},
    )
    engine.data = data
    return engine


def mean_weights(engine: AdaptationEngine) -> tuple[float, float]:
    """Mean weight of the examples that follow the target's rule, and of the others."""
    weights = torch.sigmoid(engine.reweight.module.logits.detach())
    related = engine.data["related"]
    return weights[related].mean().item(), weights[~related].mean().item()


def main(**options: Any) -> AdaptationEngine:
    engine = build(**options)
    engine.run()
    return engine


if __name__ == "__main__":
    main()
