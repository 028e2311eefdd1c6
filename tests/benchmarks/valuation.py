"""How well scores foretell training again on half of the data, and what they cost.

Run `python -m tests.benchmarks.valuation [mlp|cnn] [METHOD ...]`. The linear datamodeling score of Park et al. (2023),
arXiv:2303.14186, on scikit-learn's digits: 100 models are trained on random halves of 1,350 images. For
each of 447 queries the scores of a half's members are added up and compared, by rank over the halves, with the loss of
the model that was trained on it. Where kronfluence, dattri and TRAK can be imported they take part with the same model.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from betty.valuation import Valuation
from tests.benchmarks.peers import installed

TRAIN, HALVES, UPDATES, DECAY = 1350, 100, 300, 1e-3

METHODS: list[dict[str, Any]] = [
    {"name": "identity"},
    {"name": "cosine"},
    {"name": "kfac"},
    {"name": "kfac", "fisher": "empirical"},
    {"name": "ekfac"},
    {"name": "ekfac", "fisher": "empirical"},
    {"name": "logra", "rank": 8},
    {"name": "logra", "rank": 8, "init": "pca"},
    {"name": "logra", "rank": 8, "init": "ekfac"},
    {"name": "logra", "rank": 16, "init": "ekfac"},
    {"name": "trak"},
    {"name": "arnoldi"},
    {"name": "lissa"},
    {"name": "cg"},
]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "cnn": cnn}
RATES = {"mlp": 0.5, "cnn": 0.1}


def digits() -> tuple[TensorDataset, TensorDataset]:
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images = images.float() / 16
    return tuple(TensorDataset(images[part], labels[part]) for part in (order[:TRAIN], order[TRAIN:]))  # type: ignore[return-value]


def trained(name: str, data: TensorDataset, members: Tensor) -> nn.Module:
    """A model trained on some of the examples, from one start, by momentum on all of them at each update."""
    torch.manual_seed(0)
    model: nn.Module = MODELS[name]().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = (part[members] for part in data.tensors)
    optimizer = torch.optim.SGD(model.parameters(), RATES[name], momentum=0.9, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, UPDATES)
    for _ in range(UPDATES):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()
    return model


def truth(name: str, train: TensorDataset, queries: TensorDataset) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Halves ``[100, 1350]``, the queries' losses after training on them ``[100, 447]``, and the whole model; kept."""
    path = Path("build") / f"halves-{name}.pt"
    if path.exists():
        halves, losses, whole = torch.load(path, weights_only=True)
        return halves, losses, whole
    generator = torch.Generator().manual_seed(1)
    halves = torch.stack([(torch.randperm(TRAIN, generator=generator) < TRAIN // 2).float() for _ in range(HALVES)])
    parts = []
    for half in halves:
        model = trained(name, train, half.nonzero().flatten())
        with torch.no_grad():
            parts.append(functional.cross_entropy(model(queries.tensors[0]), queries.tensors[1], reduction="none"))
    whole = trained(name, train, torch.arange(TRAIN)).state_dict()
    path.parent.mkdir(exist_ok=True)
    torch.save((halves, torch.stack(parts), whole), path)
    return halves, torch.stack(parts), whole


def datamodeling(scores: Tensor, halves: Tensor, losses: Tensor) -> float:
    """The mean over queries of Spearman's correlation over halves."""
    ranks = [found.argsort(0).argsort(0).double() for found in (halves @ scores.T, losses)]
    one, other = (rank - rank.mean(0) for rank in ranks)
    return float(((one * other).sum(0) / (one.norm(dim=0) * other.norm(dim=0))).mean())


@contextmanager
def peak() -> Iterator[list[int]]:
    """The most resident memory that is taken within beyond what was there before, in MiB."""

    def resident() -> int:
        text = Path("/proc/self/statm").read_text().split()[1]
        return int(text) * 4096 >> 20

    first, found, ended = resident(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            found[0] = max(found[0], resident() - first)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def row(name: str, score: float, seconds: tuple[float, float], memory: int, stored: int) -> None:
    print(
        f"{name:<44} {score:>6.3f} {seconds[0]:>8.2f} {1000 * seconds[1]:>12.2f} {memory:>10} {stored / 2**20:>8.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS, nargs="?", default="mlp")
    parser.add_argument("methods", nargs="*", help="names; all without")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    train, queries = digits()
    halves, losses, whole = truth(asked.model, train, queries)
    model = MODELS[asked.model]()
    model.load_state_dict(whole)
    print(f"{'':<44} {'LDS':>6} {'log (s)':>8} {'query (ms)':>12} {'peak (MiB)':>10} {'MiB':>8}")
    data, questions = DataLoader(train, batch_size=135), DataLoader(queries, batch_size=149)
    for method in METHODS:
        if asked.methods and method["name"] not in asked.methods:
            continue
        with peak() as memory:
            start = time.perf_counter()
            valuation = Valuation(model, nn.CrossEntropyLoss(), method=method, weight_decay=DECAY).log(data)
            logged = time.perf_counter()
            scores = valuation.score(questions)
            ended = time.perf_counter()
        seconds = logged - start, (ended - logged) / len(queries)
        text = " ".join(f"{value}" if key == "name" else f"{key}={value}" for key, value in method.items())
        row(text, datamodeling(scores, halves, losses), seconds, memory[0], valuation.bytes_on_disk)
    peers = {} if asked.methods else installed()
    for name, peer in peers.items():
        copy = MODELS[asked.model]()
        copy.load_state_dict(whole)
        with peak() as memory:
            start = time.perf_counter()
            scores = peer(copy, train, queries)
            seconds = time.perf_counter() - start, 0.0
        row(f"{name}, all in one", datamodeling(scores, halves, losses), seconds, memory[0], 0)


if __name__ == "__main__":
    main()
