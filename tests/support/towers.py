"""A nonlinear three-level chain, and a re-run of its joint history in which the top has been moved.

``low`` reads ``top``, ``mid`` reads ``low`` and ``top`` reads ``mid``. Both lowers are stepped by torch.optim alone.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from betty.backends.torch.objective import ParameterModule, View
from betty.ir.methods import Method, preset
from betty.ir.records import Flow
from tests.support.optimizers import OptimizerCase
from tests.support.programs import Built, Part, assemble, edge
from tests.support.unrolling import move

D = torch.float64
TOP_SIZE = 3


def low_loss(batch: Tensor, low: View, top: View) -> Tensor:
    w, x = low.parameters["w"], top.parameters["x"]
    return (torch.tanh(batch @ w) * x.sum()).mean() + (x.sin() * w.square()).sum() + 0.5 * w.square().sum()


def mid_loss(batch: Tensor, mid: View, low: View) -> Tensor:
    v, w = mid.parameters["v"], low.parameters["w"]
    return (torch.tanh(batch @ v) - batch @ w).square().mean() + 0.1 * v.square().sum() + (v.cos() * w).sum()


def top_loss(mid: View, top: View) -> Tensor:
    return (mid.parameters["v"].square().sum() - 1).square() + 0.1 * top.parameters["x"].square().sum()


def skipping_top_loss(mid: View, low: View, top: View) -> Tensor:
    """Reads ``low`` as it stands beside what ``mid`` has made of it."""
    return top_loss(mid, top) + (low.parameters["w"] * torch.linspace(0, 1, 3, dtype=D)).sum().sin()


def parameters(name: str, seed: int) -> ParameterModule:
    generator = torch.Generator().manual_seed(seed)
    return ParameterModule({name: 0.5 * torch.randn(3, generator=generator, dtype=D)})


def batches(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 3, generator=generator, dtype=D) for _ in range(40)]


@dataclass(frozen=True)
class Tower:
    """The chain: optimisers of the lowers, whether the top reads low directly, and micro-batches an update of low."""

    low: OptimizerCase
    mid: OptimizerCase
    skip: bool = False
    accumulation: int = 1

    def live(self, low_method: Method, mid_method: Method, unroll: tuple[int, int] = (1, 1)) -> Built:
        parts = [
            Part(
                name="low",
                module=parameters("w", 0),
                loss=low_loss,
                batches=batches(10),
                optimizer=self.low.make,
                unroll=unroll[0],
                accumulation=self.accumulation,
            ),
            Part(
                name="mid",
                module=parameters("v", 1),
                loss=mid_loss,
                batches=batches(11),
                optimizer=self.mid.make,
                unroll=unroll[1],
            ),
            Part(name="top", module=parameters("x", 2), loss=skipping_top_loss if self.skip else top_loss),
        ]
        edges = [
            edge("mid", "low", low_method, Flow.UP),
            edge("top", "mid", mid_method, Flow.UP),
            edge("top", "low", low_method, Flow.BOTH if self.skip else Flow.DOWN),
        ]
        return assemble(parts, edges)

    def loss_after(self, script: Sequence[str], change: Tensor, windows: dict[str, int]) -> float:
        """The top's loss when ``top`` is moved for the last ``windows[name]`` updates of each lower.

        What lies before a lower's window happens as if nothing had moved.
        """
        plain, moved = World(self), World(self)
        move(moved.modules["top"], change)
        total = Counter(script)
        for name in script:
            plain.step(name)
            every = moved.every(name)
            if moved.count[name] // every < total[name] // every - windows[name]:
                moved.copy(name, plain)
            else:
                moved.step(name)
        with torch.no_grad():
            return moved.top_loss()


class World:
    """One run of the chain by torch.optim."""

    def __init__(self, tower: Tower) -> None:
        self.tower = tower
        self.modules: dict[str, nn.Module] = {
            "low": parameters("w", 0),
            "mid": parameters("v", 1),
            "top": parameters("x", 2),
        }
        self.views = {name: View(name, module, fixed=True) for name, module in self.modules.items()}
        self.optimizers = {name: getattr(tower, name).make(self.modules[name].parameters()) for name in ("low", "mid")}
        self.batches = {"low": batches(10), "mid": batches(11)}
        self.count: Counter[str] = Counter()

    def every(self, name: str) -> int:
        return self.tower.accumulation if name == "low" else 1

    def step(self, name: str) -> None:
        """One micro-batch; an update where they are complete."""
        batch = self.batches[name][self.count[name]]
        reads = {"low": ("low", "top"), "mid": ("mid", "low")}[name]
        loss = {"low": low_loss, "mid": mid_loss}[name](batch, *(self.views[read] for read in reads))
        own = list(self.modules[name].parameters())
        for leaf, part in zip(own, torch.autograd.grad(loss / self.every(name), own), strict=True):
            leaf.grad = part if leaf.grad is None else leaf.grad + part
        self.count[name] += 1
        if self.count[name] % self.every(name) == 0:
            self.optimizers[name].step()
            self.optimizers[name].zero_grad()

    def copy(self, name: str, other: World) -> None:
        self.modules[name].load_state_dict(other.modules[name].state_dict())
        self.optimizers[name].load_state_dict(copy.deepcopy(other.optimizers[name].state_dict()))
        for mine, theirs in zip(self.modules[name].parameters(), other.modules[name].parameters(), strict=True):
            mine.grad = None if theirs.grad is None else theirs.grad.clone()
        self.count[name] = other.count[name]

    def top_loss(self) -> float:
        mid, low, top = self.views["mid"], self.views["low"], self.views["top"]
        return float(skipping_top_loss(mid, low, top) if self.tower.skip else top_loss(mid, top))


def unrolled(steps: int = 0) -> Method:
    return preset("unrolled", {"steps": steps})
