"""Peak memory and time of looking back on 5, 20, 80 and 320 updates: ``python -m tests.benchmarks.unrolling``.

A meta step is ``steps`` updates of the lower and one hypergradient of the upper. Memory is the peak of tensor storage
above what lives before the meta step; with ``remat`` it should grow as the root of the steps, for at most 1.5 times
the time, and in forward mode not at all. Times are measured in turn, in units of ``unrolled``.
"""

from __future__ import annotations

import gc
import itertools
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from betty.backends.torch.objective import ParameterModule, View
from betty.backends.torch.profiler import StorageWatch
from betty.ir.methods import Method, preset
from tests.benchmarks.models import ratios
from tests.support.programs import Built, Part, assemble, edge

STEPS = (5, 20, 80, 320)
WIDTH = 64
BATCH = 128
BLOCKS = 5


def methods(steps: int) -> dict[str, Method]:
    return {
        "unrolled": preset("unrolled", {"steps": steps}),
        "unrolled, remat": preset("unrolled", {"steps": steps, "remat": True}),
        "forward_mode": preset("forward_mode"),
    }


def network() -> nn.Module:
    torch.manual_seed(0)
    sizes = (16, WIDTH, WIDTH, 1)
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers)


def loss(batch: tuple[Tensor, Tensor], low: View, up: View) -> Tensor:
    x, y = batch
    decay, scale = up.parameters["decay"], up.parameters["scale"]
    size = torch.stack([leaf.square().sum() for leaf in low.parameters.values()]).sum()
    return (low(x).squeeze(-1) * scale - y).square().mean() + decay.exp() * size


def goal(low: View, up: View) -> Tensor:
    x = torch.linspace(-1, 1, 32 * 16).reshape(32, 16)
    return low(x).square().mean() + up.parameters["scale"].square()


def program(method: Method) -> Built:
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(BATCH, 16, generator=generator), torch.randn(BATCH, generator=generator)) for _ in range(4)]
    low = Part(
        name="low",
        module=network(),
        loss=loss,
        batches=batches,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    )
    up = Part(name="up", module=ParameterModule({"decay": torch.tensor(-6.0), "scale": torch.tensor(1.0)}), loss=goal)
    return assemble([low, up], [edge("up", "low", method)])


def meta_step(built: Built, steps: int) -> None:
    built.follow(["low"] * steps)
    built.executor.step("up")


def peak_bytes(method: Method, steps: int) -> int:
    """Of the first meta step, whose updates all lie in the window."""
    built = program(method)
    gc.collect()
    with StorageWatch() as watch:
        meta_step(built, steps)
    return watch.peak


def times(steps: int) -> list[float]:
    """Median time of a meta step of each method in units of ``unrolled``, measured in turn."""
    built = [program(method) for method in methods(steps).values()]
    return ratios([partial(meta_step, one, steps) for one in built], repeats=1, blocks=BLOCKS)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'updates':<24}" + "".join(f"{steps:>10}" for steps in STEPS))
    memory = {name: [peak_bytes(methods(steps)[name], steps) for steps in STEPS] for name in methods(1)}
    for name, values in memory.items():
        print(f"{name + ', MiB':<24}" + "".join(f"{value / 2**20:>10.2f}" for value in values))
    table = {steps: times(steps) for steps in STEPS}
    for index, name in enumerate(methods(1)):
        print(f"{name + ', time':<24}" + "".join(f"{table[steps][index]:>10.2f}" for steps in STEPS))


if __name__ == "__main__":
    main()
