"""One program, written as a spec and as classes: weights for noisy examples, with dropout, momentum and a schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from betty import Config, Engine, EngineConfig, ImplicitProblem, Spec

SIZE, BATCH = 48, 16
METHODS: dict[str, tuple[Any, Any]] = {
    "darts": ("darts", {"inverse": "identity", "product": {"name": "finite_difference", "epsilon": 0.01}}),
    "sama": ("sama", {"inverse": "sama", "product": {"name": "finite_difference", "epsilon": 1.0}}),
    "cg": ("cg", {"name": "cg", "iterations": 3, "tolerance": 0.0}),
    "neumann": ("neumann", {"name": "neumann", "iterations": 2, "alpha": 0.1}),
    "unrolled": ("unrolled", "unrolled"),
}
"""By name: ``Config.type`` and the method of the edge."""


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))


class Logits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(SIZE))

    def forward(self, index: Tensor) -> Tensor:
        return self.logit[index].sigmoid()


def examples(seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SIZE, 4, generator=generator)
    y = (x[:, 0] > 0).long()
    index = torch.arange(SIZE)
    return [(x[at], y[at], index[at]) for at in index.split(BATCH)]


def lower_loss(batch: Any, classifier: Any, weigher: Any) -> dict[str, Any]:
    x, y, index = batch
    losses = F.cross_entropy(classifier(x), y, reduction="none")
    return {"loss": (weigher(index) * losses).mean(), "plain": losses.mean()}


def upper_loss(batch: Any, classifier: Any) -> Tensor:
    x, y, _ = batch
    return F.cross_entropy(classifier(x), y)


class Classifier(ImplicitProblem):
    def training_step(self, batch: Any) -> dict[str, Any]:
        return lower_loss(batch, self, self.weigher)  # type: ignore[attr-defined]


class Weigher(ImplicitProblem):
    def training_step(self, batch: Any) -> Tensor:
        return upper_loss(batch, self.classifier)  # type: ignore[attr-defined]


CONFIG: dict[str, Any] = {"unroll_steps": 2, "gradient_accumulation": 2, "gradient_clipping": 1.0, "warmup_steps": 3}


def as_classes(method: str, engine_type: type[Engine] = Engine, **config: Any) -> Engine:
    torch.manual_seed(0)
    net, logits = network(), Logits()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    classifier = Classifier(
        "classifier",
        Config(type=METHODS[method][0], neumann_iterations=2, neumann_alpha=0.1, cg_iterations=3, **CONFIG),
        net,
        optimizer,
        torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5),
        examples(1),
    )
    weigher = Weigher(
        "weigher", Config(), logits, torch.optim.Adam(logits.parameters(), lr=0.1), train_data_loader=examples(2)[:1]
    )
    return engine_type(
        problems=[classifier, weigher],
        dependencies={"u2l": {weigher: [classifier]}, "l2u": {classifier: [weigher]}},
        config=EngineConfig(**{"train_iters": 12, "log_every": 1, "strategy": "cpu", **config}),
    )


def as_spec(method: str) -> Engine:
    torch.manual_seed(0)
    net, logits = network(), Logits()
    spec = {
        "name": "program",
        "problems": {
            "classifier": {
                "module": {"target": net},
                "loss": {"target": lower_loss},
                "data": {"target": examples(1)},
                "optimizer": {"target": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3},
                "scheduler": {"target": "torch.optim.lr_scheduler.StepLR", "step_size": 3, "gamma": 0.5},
                "unroll": 2,
                "gradient_accumulation": 2,
                "gradient_clipping": 1.0,
                "warm_up": 3,
            },
            "weigher": {
                "module": {"target": logits},
                "loss": {"target": upper_loss},
                "data": {"target": examples(2)[:1]},
                "optimizer": {"target": "torch.optim.Adam", "lr": 0.1},
            },
        },
        "edges": [{"upper": "weigher", "lower": "classifier", "method": METHODS[method][1]}],
        "engine": {"iterations": 12, "device": "cpu", "log": {"every": 1}},
    }
    return Engine(Spec.model_validate(spec))
