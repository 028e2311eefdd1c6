"""A bilevel step of the engine against a hand-written PyTorch loop that computes the same, side by side.

Run ``python tests/benchmarks/handwritten.py``. Each pair is timed in alternating blocks of one process, so that
both see the same machine; the ratio of the medians is printed. Both loops read the same fixed batches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from betty import Engine

BLOCKS, STEPS = 9, 20


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


class Encoder(nn.Module):
    """Two transformer layers over 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x).mean(1))
        return out


PROGRAMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (64, 64)),
    "encoder": (Encoder, (32, 16, 128)),
}


def losses(size: int) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    index = torch.arange(size)

    def weighted(batch: Any, net: Any, weights: Any) -> Tensor:
        x, y = batch
        weight = torch.sigmoid(weights.parameters["logit"][index])
        return (weight * F.cross_entropy(net(x), y, reduction="none")).mean()

    def clean(batch: Any, net: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(net(x), y)

    return weighted, clean


def batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return torch.randn(shape), torch.randint(0, 10, (shape[0],))


def engine_loop(make: Callable[[], nn.Module], shape: tuple[int, ...], method: Any) -> Callable[[int], None]:
    torch.manual_seed(0)
    weighted, clean = losses(shape[0])
    spec = {
        "name": "benchmark",
        "problems": {
            "net": {
                "module": make(),
                "loss": weighted,
                "data": [batch(shape)],
                "optimizer": {"target": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9},
            },
            "weights": {
                "parameters": {"logit": {"shape": [shape[0]]}},
                "loss": clean,
                "data": [batch(shape)],
                "optimizer": {"target": "torch.optim.Adam", "lr": 0.01},
            },
        },
        "edges": [{"upper": "weights", "lower": "net", "method": method}],
        "engine": {"device": "cpu", "log": {"every": 1_000_000}},
    }
    engine = Engine(spec)

    def loop(steps: int) -> None:
        engine.run(steps)

    return loop


class ByHand:
    """What an experienced user writes: module calls, ``autograd.grad``, in-place perturbations."""

    def __init__(self, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        self.net, self.logit = make(), nn.Parameter(torch.zeros(shape[0]))
        self.lower, self.upper = batch(shape), batch(shape)
        self.descend = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)
        self.ascend = torch.optim.Adam([self.logit], lr=0.01)
        self.parameters = list(self.net.parameters())

    def weighted(self) -> Tensor:
        x, y = self.lower
        return (torch.sigmoid(self.logit) * F.cross_entropy(self.net(x), y, reduction="none")).mean()

    def lower_step(self) -> None:
        self.descend.zero_grad()
        for parameter, part in zip(self.parameters, torch.autograd.grad(self.weighted(), self.parameters), strict=True):
            parameter.grad = part
        self.descend.step()

    def adjoint(self) -> tuple[Tensor, ...]:
        x, y = self.upper
        return torch.autograd.grad(F.cross_entropy(self.net(x), y), self.parameters)

    def move(self, direction: tuple[Tensor, ...], by: Tensor) -> None:
        with torch.no_grad():
            torch._foreach_add_([*self.parameters], list(torch._foreach_mul(list(direction), by)))

    def step(self, gradient: Tensor) -> None:
        self.logit.grad = -gradient
        self.ascend.step()

    def finite_difference(self, steps: int) -> None:
        for _ in range(steps):
            self.lower_step()
            v = self.adjoint()
            epsilon = 0.01 / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(v))))
            self.move(v, epsilon)
            ahead = torch.autograd.grad(self.weighted(), self.logit)[0]
            self.move(v, -2 * epsilon)
            behind = torch.autograd.grad(self.weighted(), self.logit)[0]
            self.move(v, epsilon)
            self.step((ahead - behind) / (2 * epsilon))

    def cg(self, steps: int) -> None:
        for _ in range(steps):
            self.lower_step()
            v = self.adjoint()
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernel's gradient cannot be differentiated
                gradient = torch.autograd.grad(self.weighted(), self.parameters, create_graph=True)
            q, residual, direction = [torch.zeros_like(part) for part in v], list(v), list(v)
            squared = inner(residual, residual)
            for _ in range(5):
                image = torch.autograd.grad(gradient, self.parameters, direction, retain_graph=True)
                length = squared / inner(direction, list(image)).clamp_min(1e-12)
                q = list(torch._foreach_add(q, list(torch._foreach_mul(direction, length))))
                residual = list(torch._foreach_sub(residual, list(torch._foreach_mul(list(image), length))))
                after = inner(residual, residual)
                scaled = list(torch._foreach_mul(direction, after / squared))
                direction = list(torch._foreach_add(residual, scaled))
                squared = after
            self.step(torch.autograd.grad(gradient, self.logit, q)[0])


def inner(left: list[Tensor], right: list[Tensor]) -> Tensor:
    return torch.stack([part.sum() for part in torch._foreach_mul(left, right)]).sum()


def seconds(loop: Callable[[int], None]) -> float:
    start = time.perf_counter()
    loop(STEPS)
    return (time.perf_counter() - start) / STEPS


def compare(engine: Callable[[int], None], by_hand: Callable[[int], None]) -> tuple[float, float]:
    engine(5)
    by_hand(5)
    pairs = [(seconds(engine), seconds(by_hand)) for _ in range(BLOCKS)]
    return statistics.median(first for first, _ in pairs), statistics.median(second for _, second in pairs)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'program':10} {'method':20} {'engine ms':>10} {'by hand ms':>11} {'ratio':>6}")
    for name, (make, shape) in PROGRAMS.items():
        hand = ByHand(make, shape)
        rows = {"finite_difference": hand.finite_difference, "cg, 5 iterations": hand.cg}
        methods: dict[str, Any] = {
            "finite_difference": "finite_difference",
            "cg, 5 iterations": {"name": "cg", "iterations": 5, "tolerance": 0.0},
        }
        for label, by_hand in rows.items():
            ours, theirs = compare(engine_loop(make, shape, methods[label]), by_hand)
            print(f"{name:10} {label:20} {ours * 1e3:10.2f} {theirs * 1e3:11.2f} {ours / theirs:6.2f}")


if __name__ == "__main__":
    main()
