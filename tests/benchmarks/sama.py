"""SAMA against conjugate gradients and the Neumann series: throughput and peak memory, by one process and by two.

Run ``python -m tests.benchmarks.sama``. A transformer encoder classifies generated sentences of 64 tokens, a fifth of
which are labelled wrong; a small network above it weighs them by their loss, and learns from clean ones after every
step (Meta-Weight-Net, as in the experiments of SAMA's paper, arXiv:2310.05674, section 4). The encoder descends by
Adam. Iterative solves take five iterations. All methods run in turn, block by block, within one process or one pair.

Throughput is in training examples of the encoder a second. Memory is what tensors take at the peak of an iteration, of
one process: parameters, optimiser states, activations and graphs. The paper claims 1.7 times the throughput and half
the memory of iterative methods on one GPU.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from betty import Engine
from betty.backends.torch.profiler import StorageWatch
from tests.distributed.together import started

METHODS: dict[str, Any] = {
    "sama": "sama",
    "finite_difference": "finite_difference",
    "neumann": {"name": "neumann", "iterations": 5, "alpha": 0.01},
    "cg": {"name": "cg", "iterations": 5, "tolerance": 0.0},
}
WORDS, TOKENS, CLASSES, SIZE, BATCH = 1000, 64, 4, 512, 32
BLOCKS, STEPS = 5, 2


class Classifier(nn.Module):
    """Four layers of width 128 over 64 tokens: 0.9 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 128), nn.Parameter(torch.zeros(TOKENS, 128))
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.1, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(128, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.words(tokens) + self.places).mean(1))
        return out


class Weigher(nn.Module):
    """The weight of an example, from its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1), nn.Sigmoid())

    def forward(self, losses: Tensor) -> Tensor:
        out: Tensor = self.layers(losses[:, None])[:, 0]
        return out


def sentences(seed: int, wrong: float) -> TensorDataset:
    """Each class has words of its own among those that all share."""
    torch.manual_seed(seed)
    labels = torch.randint(0, CLASSES, (SIZE,))
    tokens = torch.randint(CLASSES * 20, WORDS, (SIZE, TOKENS))
    own = torch.rand(SIZE, TOKENS) < 0.1
    tokens = torch.where(own, labels[:, None] * 20 + torch.randint(0, 20, (SIZE, TOKENS)), tokens)
    return TensorDataset(tokens, torch.where(torch.rand(SIZE) < wrong, torch.randint(0, CLASSES, (SIZE,)), labels))


def weighted(batch: Any, net: Any, weigher: Any) -> Tensor:
    tokens, labels = batch
    losses = F.cross_entropy(net(tokens), labels, reduction="none")
    return (weigher(losses.detach()) * losses).mean()


def clean(batch: Any, net: Any) -> Tensor:
    tokens, labels = batch
    return F.cross_entropy(net(tokens), labels)


def engine(method: Any) -> Engine:
    adam = {"target": "torch.optim.Adam", "lr": 1e-4}
    lower = {"module": Classifier, "loss": weighted, "data": {"target": sentences(0, 0.2), "batch_size": BATCH}}
    upper = {"module": Weigher, "loss": clean, "data": {"target": sentences(1, 0.0), "batch_size": BATCH}}
    return Engine(
        {
            "name": "sama-benchmark",
            "problems": {"net": {**lower, "optimizer": adam}, "weigher": {**upper, "optimizer": adam}},
            "edges": [{"upper": "weigher", "lower": "net", "method": method}],
            "engine": {"device": "cpu", "log": {"every": 1_000_000}},
        }
    )


def held(one: Engine) -> int:
    """Bytes of parameters and optimiser states."""
    program = one._program
    tensors = [leaf for problem in program.problems.values() for leaf in problem.module.state_dict().values()]
    for problem in program.problems.values():
        states = problem.optimizer.state.values() if problem.optimizer is not None else ()
        tensors += [leaf for state in states for leaf in state.values() if isinstance(leaf, Tensor)]
    return sum(leaf.numel() * leaf.element_size() for leaf in tensors)


def peak(one: Engine) -> int:
    with (watch := StorageWatch()):
        one.run(1)
    return held(one) + watch.peak


def main() -> None:
    torch.set_num_threads(1)
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    engines = {name: engine(method) for name, method in METHODS.items()}
    for one in engines.values():
        one.run(2)
    memory = {name: peak(one) for name, one in engines.items()}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(BLOCKS):
        for name, one in engines.items():
            start = time.perf_counter()
            one.run(STEPS)
            rates[name].append(STEPS * BATCH / (time.perf_counter() - start))
    if rank:
        return
    print(f"\n{count} process{'es' if count > 1 else ''}")
    print(f"  {'method':<18} {'examples/s':>10} {'peak':>9}   sama has of it: throughput  memory   collectives")
    for name, one in engines.items():
        faster = statistics.median(own / other for own, other in zip(rates["sama"], rates[name], strict=True))
        met = [item.exchange for step in one.plan for item in step.instructions if item.exchange is not None]
        exchanged = f"{sum(one.calls for one in met)} · {sum(one.bytes for one in met) / 1e6:.1f} MB" if met else "-"
        print(
            f"  {name:<18} {statistics.median(rates[name]):>10.1f} {memory[name] / 1e6:>6.0f} MB"
            f" {faster:>27.2f} {memory['sama'] / memory[name]:>7.2f}   {exchanged}"
        )


if __name__ == "__main__":
    if "RANK" in os.environ:
        main()
    else:
        main()
        for ended in started(["-m", "tests.benchmarks.sama"], 2):
            print(ended.stdout, end="")
            if ended.returncode:
                print(ended.stderr)
