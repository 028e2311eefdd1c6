"""MAML by the engine against TorchOpt, higher and a hand-written loop: ``python -m tests.benchmarks.maml``.

A meta step is four tasks: from the meta problem's parameters 5 or 20 steps of SGD on the support set, then the gradient
of the query loss by the start. The tasks are sines of random amplitude and phase (an MLP of two hidden layers of 64)
and five of scikit-learn's digits with five images each (four convolutions with batch normalisation). All candidates
read the same tasks and begin at the same start. Every other library takes its gradient task by task, so that the graph
of one task alone is alive at any time.

Neither library is a dependency: ``pip install torchopt higher``, here or anywhere on ``PYTHONPATH``. One that cannot be
imported is reported and left out.
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from betty import Engine
from betty.backends.torch.profiler import StorageWatch
from tests.benchmarks.models import ratios, seconds

TASKS = 4
"""Tasks a meta step."""
STEPS = (5, 20)
Batch = tuple[Tensor, Tensor]
MetaStep = Callable[[], object]


@dataclass(frozen=True)
class Task:
    """What to adapt to, and how well that went."""

    support: Batch
    query: Batch


@dataclass(frozen=True)
class Family:
    """Tasks, the network that adapts to them, its loss, and the rate at which it adapts."""

    network: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    tasks: Sequence[Task]
    rate: float


def sines() -> Family:
    """Regression on ten points of a sine, ten more to judge by."""
    generator = torch.Generator().manual_seed(0)

    def task() -> Task:
        amplitude, phase = 0.1 + 4.9 * torch.rand(1, generator=generator), 3 * torch.rand(1, generator=generator)
        x = 10 * torch.rand(20, 1, generator=generator) - 5
        y = amplitude * torch.sin(x + phase)
        return Task((x[:10], y[:10]), (x[10:], y[10:]))

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    return Family(network, F.mse_loss, [task() for _ in range(TASKS)], 0.01)


def digits() -> Family:
    """Five of the ten digits under new names; five images of each to adapt to, fifteen to judge by."""
    generator = torch.Generator().manual_seed(0)
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16

    def drawn(digit: int) -> Tensor:
        found = images[labels == digit]
        return found[torch.randperm(len(found), generator=generator)[:20]]

    def task() -> Task:
        chosen = torch.stack([drawn(digit) for digit in torch.randperm(10, generator=generator)[:5].tolist()])
        names = torch.arange(5)
        support = chosen[:, :5].flatten(0, 1), names.repeat_interleave(5)
        return Task(support, (chosen[:, 5:].flatten(0, 1), names.repeat_interleave(15)))

    return Family(convolutions, F.cross_entropy, [task() for _ in range(TASKS)], 0.1)


def convolutions() -> nn.Module:
    """Four convolutions of 32 channels; batches are normalised by their own statistics."""
    layers: list[nn.Module] = []
    for inputs, pool in ((1, True), (32, True), (32, True), (32, False)):
        layers += [nn.Conv2d(inputs, 32, 3, padding=1), nn.BatchNorm2d(32, track_running_stats=False), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 5))


class Keeping(torch.optim.Adam):
    """Adam that remembers the last gradient, by which the candidates are compared."""

    def step(self, closure: Any = None) -> Any:
        self.seen = [parameter.grad for group in self.param_groups for parameter in group["params"]]
        return super().step(closure)


@dataclass(frozen=True)
class Candidate:
    """A meta step, and the gradient that the last one has found."""

    step: MetaStep
    found: Callable[[], Sequence[Tensor]]


def with_betty(family: Family, net: nn.Module, steps: int, method: Any) -> Candidate:
    """The engine; one iteration is one step of the lower."""
    made: list[Keeping] = []

    def optimizer(parameters: Iterable[nn.Parameter]) -> Keeping:
        made.append(Keeping(parameters, lr=1e-3))
        return made[-1]

    def loss(batch: Batch, adapted: Any) -> Tensor:
        return family.loss(adapted(batch[0]), batch[1])

    spec = {
        "name": "maml",
        "problems": {
            "adapted": {
                "module": copy.deepcopy(net),
                "loss": loss,
                "data": functools.partial(supports, family.tasks, steps),
                "optimizer": {"target": "torch.optim.SGD", "lr": family.rate},
                "initial": {"from": "meta"},
                "unroll": steps,
            },
            "meta": {
                "module": copy.deepcopy(net),
                "loss": loss,
                "data": [task.query for task in family.tasks],
                "optimizer": optimizer,
                "gradient_accumulation": TASKS,
            },
        },
        "edges": [{"upper": "meta", "lower": "adapted", "method": method}],
        "engine": {"device": "cpu", "precision": _precision(net), "log": {"every": 1_000_000}},
    }
    engine = Engine(spec)
    return Candidate(lambda: engine.run(steps * TASKS), lambda: made[-1].seen)


def supports(tasks: Sequence[Task], steps: int) -> Iterator[Batch]:
    return itertools.chain.from_iterable(itertools.repeat(task.support, steps) for task in tasks)


def _precision(net: nn.Module) -> str:
    return "fp64" if next(net.parameters()).dtype == torch.float64 else "fp32"


def _others(family: Family, net: nn.Module, query_loss: Callable[[Task], Tensor]) -> Candidate:
    """What the loops of all others share: the mean over tasks, and the outer optimiser."""
    outer = Keeping(net.parameters(), lr=1e-3)

    def step() -> None:
        outer.zero_grad()
        for task in family.tasks:
            (query_loss(task) / len(family.tasks)).backward()
        outer.step()

    return Candidate(step, lambda: outer.seen)


def by_hand(family: Family, net: nn.Module, steps: int) -> Candidate:
    """What an experienced user writes: ``functional_call`` and ``autograd.grad``."""
    names = [name for name, _ in net.named_parameters()]

    def loss(values: Sequence[Tensor], batch: Batch) -> Tensor:
        out = torch.func.functional_call(net, dict(zip(names, values, strict=True)), (batch[0],))
        return family.loss(out, batch[1])

    def query_loss(task: Task) -> Tensor:
        values: Sequence[Tensor] = tuple(net.parameters())
        for _ in range(steps):
            slopes = torch.autograd.grad(loss(values, task.support), values, create_graph=True)
            values = [value - family.rate * slope for value, slope in zip(values, slopes, strict=True)]
        return loss(values, task.query)

    return _others(family, net, query_loss)


def with_torchopt(family: Family, net: nn.Module, steps: int) -> Candidate:
    torchopt = importlib.import_module("torchopt")
    inner = torchopt.MetaSGD(net, lr=family.rate)
    start, fresh = (torchopt.extract_state_dict(one, by="reference") for one in (net, inner))

    def query_loss(task: Task) -> Tensor:
        torchopt.recover_state_dict(net, start)
        torchopt.recover_state_dict(inner, fresh)
        for _ in range(steps):
            inner.step(family.loss(net(task.support[0]), task.support[1]))
        return family.loss(net(task.query[0]), task.query[1])

    return _others(family, net, query_loss)


def with_higher(family: Family, net: nn.Module, steps: int) -> Candidate:
    higher = importlib.import_module("higher")
    inner = torch.optim.SGD(net.parameters(), lr=family.rate)

    def query_loss(task: Task) -> Tensor:
        with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (adapted, optimizer):
            for _ in range(steps):
                optimizer.step(family.loss(adapted(task.support[0]), task.support[1]))
            return family.loss(adapted(task.query[0]), task.query[1])

    return _others(family, net, query_loss)


REMAT = {"name": "unrolled", "remat": True}
CANDIDATES: dict[str, Callable[[Family, nn.Module, int], Candidate]] = {
    "betty, unrolled": lambda family, net, steps: with_betty(family, net, steps, "unrolled"),
    "betty, unrolled, remat": lambda family, net, steps: with_betty(family, net, steps, REMAT),
    "by hand": by_hand,
    "TorchOpt": with_torchopt,
    "higher": with_higher,
}


def made(family: Family, steps: int, dtype: torch.dtype = torch.float32) -> dict[str, Candidate | str]:
    """Every candidate from the same start; where it cannot be imported, the reason."""
    torch.manual_seed(0)
    net = family.network().to(dtype)
    found: dict[str, Candidate | str] = {}
    for name, make in CANDIDATES.items():
        try:
            found[name] = make(family, copy.deepcopy(net), steps)
        except ImportError as error:
            found[name] = f"not installed ({error})"
    return found


def peak_bytes(candidate: Candidate) -> int:
    """Of a meta step that is not the first; what is held between meta steps counts in its beginning alone."""
    candidate.step()
    gc.collect()
    with StorageWatch() as watch:
        candidate.step()
    return watch.peak


def gradient(candidate: Candidate) -> Tensor:
    candidate.step()
    return torch.cat([part.detach().double().reshape(-1) for part in candidate.found()])


def report(name: str, family: Family, steps: int, blocks: int) -> None:
    """One table: all numbers of one family with one number of steps."""
    candidates = made(family, steps)
    here = {key: one for key, one in candidates.items() if isinstance(one, Candidate)}
    slopes = {key: gradient(one) for key, one in here.items()}
    memory = {key: peak_bytes(one) for key, one in here.items()}
    repeats = max(1, round(0.15 / seconds(here["by hand"].step, 2)))
    times = dict(zip(here, ratios([one.step for one in here.values()], repeats, blocks), strict=True))
    unit, exact = seconds(here["betty, unrolled"].step, 5 * repeats), slopes["by hand"]
    print(f"\n{name}, {steps} steps, {TASKS} tasks: the unit of time is betty, unrolled, {1000 * unit:.1f} ms")
    print(f"{'':24} {'time':>6} {'memory, MiB':>12} {'difference of meta-gradients':>30}")
    for key, one in candidates.items():
        if isinstance(one, str):
            print(f"{key:24} {one}")
            continue
        away = float((slopes[key] - exact).norm() / exact.norm())
        print(f"{key:24} {times[key]:6.2f} {memory[key] / 2**20:12.2f} {away:30.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=9, help="blocks in which the candidates alternate")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="inner steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, make in (("sines", sines), ("digits", digits)):
        for steps in options.steps:
            report(name, make(), steps, options.blocks)


if __name__ == "__main__":
    main()
