"""A bilevel step of the engine against a hand-written PyTorch loop that computes the same, side by side.

Run ``python -m tests.benchmarks.handwritten``. Each pair is timed in alternating blocks of one process, so that
both see the same machine; the median of their ratios is printed. Both loops read the same fixed batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from betty import Engine
from tests.benchmarks.models import PROGRAMS, batch, ratios

STEPS = {"MLP": 20, "encoder": 8, "ResNet": 4}
"""Steps in a block."""


def losses() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    def weighted(batch: Any, net: Any, weights: Any) -> Tensor:
        x, y = batch
        weight = torch.sigmoid(weights.parameters["logit"])
        return (weight * F.cross_entropy(net(x), y, reduction="none")).mean()

    def clean(batch: Any, net: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(net(x), y)

    return weighted, clean


def engine_loop(make: Callable[[], nn.Module], shape: tuple[int, ...], method: Any) -> Callable[[int], None]:
    torch.manual_seed(0)
    weighted, clean = losses()
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

    def along(self, direction: tuple[Tensor, ...]) -> Tensor:
        """The change of the lower's loss along a direction; running statistics are spared."""
        x, y = self.lower
        names = [name for name, _ in self.net.named_parameters()]
        buffers = {name: buffer.clone() for name, buffer in self.net.named_buffers()}

        def loss(*values: Tensor) -> Tensor:
            out = torch.func.functional_call(self.net, {**dict(zip(names, values, strict=True)), **buffers}, (x,))
            return (torch.sigmoid(self.logit) * F.cross_entropy(out, y, reduction="none")).mean()

        # torch.func.jvp refuses modules that write to their buffers, so the dual numbers are made by hand.
        with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            pairs = zip(self.parameters, direction, strict=True)
            moving = (forward_ad.make_dual(value.detach(), change) for value, change in pairs)
            return forward_ad.unpack_dual(loss(*moving)).tangent

    def forward(self, steps: int) -> None:
        for _ in range(steps):
            self.lower_step()
            self.step(torch.autograd.grad(self.along(self.adjoint()), self.logit)[0])

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


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'program':10} {'method':20} {'ratio':>6}   engine over hand-written, of which blocks alternate")
    for name, (make, shape) in PROGRAMS.items():
        hand = ByHand(make, shape)
        rows = {
            "finite_difference": ("finite_difference", hand.finite_difference),
            "forward": ({"inverse": "identity", "product": "forward"}, hand.forward),
            "cg, 5 iterations": ({"name": "cg", "iterations": 5, "tolerance": 0.0}, hand.cg),
        }
        for label, (method, by_hand) in rows.items():
            runs = (partial(by_hand, STEPS[name]), partial(engine_loop(make, shape, method), STEPS[name]))
            print(f"{name:10} {label:20} {ratios(runs, repeats=1, blocks=15)[1]:6.2f}", flush=True)


if __name__ == "__main__":
    main()
