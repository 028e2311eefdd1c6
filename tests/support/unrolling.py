"""A nonlinear bilevel toy whose lower can be stepped by torch.optim alone, and differentiated by perturbation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer

from betty.backends.torch.objective import ParameterModule, View
from betty.ir.methods import Method, preset
from tests.support.compare import flat
from tests.support.optimizers import OptimizerCase
from tests.support.programs import Built, Part, assemble, edge

GROUPS = 4
D = torch.float64


def network(seed: int) -> nn.Sequential:
    """A logistic model on top of a few tanh units, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4, dtype=D), nn.Tanh(), nn.Linear(4, 1, dtype=D))


def upper_module() -> ParameterModule:
    """Weights of four groups of examples, and a regularisation strength."""
    return ParameterModule({"weights": torch.linspace(-1, 1, GROUPS, dtype=D), "decay": torch.tensor(0.2, dtype=D)})


def logistic(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return softplus(-y * model(x).squeeze(-1))


def low_loss(batch: tuple[Tensor, Tensor, Tensor], low: View, up: View) -> Tensor:
    """Weighted logistic loss, with a bound on the weights that the regulariser also sees."""
    group, x, y = batch
    weights, decay = up.parameters["weights"], up.parameters["decay"]
    size = sum((leaf.square().sum() for leaf in low.parameters.values()), torch.zeros((), dtype=D))
    return (torch.sigmoid(weights[group]) * logistic(low, x, y)).mean() + 0.05 * decay.exp() * size


def up_loss(low: View, up: View) -> Tensor:
    x, y = examples(seed=99, count=6)[1:]
    return logistic(low, x, y).mean() + 0.01 * up.parameters["weights"].square().sum()


def examples(seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator, dtype=D)
    y = torch.where(x[:, 0] + 0.3 * x[:, 1] > 0, 1.0, -1.0).to(D)
    return torch.arange(count) % GROUPS, x, y


@dataclass
class Lower:
    """A lower problem and its upper, with the micro-batches of all updates to come.

    Args:
        case: The lower's optimiser.
        accumulation: Micro-batches an update.
        clipping: Largest norm of an update's gradient.
    """

    case: OptimizerCase
    accumulation: int = 1
    clipping: float | None = None
    low: nn.Module = field(default_factory=lambda: network(seed=3))
    up: nn.Module = field(default_factory=upper_module)
    optimizer: Optimizer = field(init=False)
    done: int = 0

    def __post_init__(self) -> None:
        self.optimizer = self.case.make(self.low.parameters())

    def batch(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return examples(seed=index, count=8)

    def torch_steps(self, count: int) -> None:
        """Updates as a plain training loop makes them."""
        low, up = View("low", self.low, fixed=True), View("up", self.up, fixed=True)
        for _ in range(count):
            self.optimizer.zero_grad()
            for micro in range(self.accumulation):
                batch = self.batch(self.done * self.accumulation + micro)
                (low_loss(batch, low, up) / self.accumulation).backward()
            if self.clipping is not None:
                nn.utils.clip_grad_norm_(self.low.parameters(), self.clipping)
            self.optimizer.step()
            self.done += 1
        self.optimizer.zero_grad()
        self.up.zero_grad()

    def twin(self) -> Lower:
        """An independent copy in the same state."""
        other = replace(self, low=copy.deepcopy(self.low), up=copy.deepcopy(self.up))
        other.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return other

    def live(self, steps: int, method: Method | None = None) -> Built:
        """The program whose executor goes on from here, keeping the last ``steps`` updates, or by another method."""
        first = self.done * self.accumulation
        low = Part(
            name="low",
            module=self.low,
            loss=low_loss,
            optimizer=lambda _: self.optimizer,
            batches=[self.batch(first + index) for index in range(60)],
            accumulation=self.accumulation,
            clipping=self.clipping,
        )
        up = Part(name="up", module=self.up, loss=up_loss)
        return assemble([low, up], [edge("up", "low", method or preset("unrolled", {"steps": steps}))])

    def loss_after(self, count: int, change: Tensor) -> float:
        """The upper's loss when the upper has been moved before ``count`` more updates of the lower."""
        twin = self.twin()
        move(twin.up, change)
        twin.torch_steps(count)
        with torch.no_grad():
            return float(up_loss(View("low", twin.low, fixed=True), View("up", twin.up, fixed=True)))


def move(module: nn.Module, change: Tensor) -> None:
    """Add a vector to a module's parameters."""
    with torch.no_grad():
        parts = change.split([parameter.numel() for parameter in module.parameters()])
        for parameter, part in zip(module.parameters(), parts, strict=True):
            parameter.add_(part.reshape(parameter.shape))


def central_difference(function: Callable[[Tensor], float], size: int, step: float = 1e-5) -> Tensor:
    """The gradient of ``function`` at zero, one coordinate at a time."""
    rows = torch.eye(size, dtype=D) * step
    return torch.tensor([(function(row) - function(-row)) / (2 * step) for row in rows], dtype=D)


def hypergradient(built: Built, name: str = "up", **given: Any) -> Tensor:
    return flat(built.executor.hypergradient(name, given or None).gradient)
