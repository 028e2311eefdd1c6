"""How well self-influence finds flipped labels: `python -m tests.benchmarks.flipped [SEEDS]`.

A perceptron learns scikit-learn's digits, of which every tenth training label is drawn anew from the nine wrong ones;
the area under the receiver's curve says how far wrong ones come before right ones. Of each weight decay the mean over
seeds, which are of the data, the flips and the model. kronfluence's self-influence takes part where it is installed.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from betty.valuation import Valuation
from tests.benchmarks.peers import installed, kronfluence

TRAIN, UPDATES = 1350, 800
METHODS: list[dict[str, Any]] = [
    {"name": "identity"},
    {"name": "fisher"},
    {"name": "kfac"},
    {"name": "ekfac"},
    {"name": "ekfac", "fisher": "empirical"},
    {"name": "logra", "rank": 8, "init": "ekfac"},
    {"name": "logra", "rank": 16, "init": "ekfac"},
]


def flipped(seed: int) -> tuple[TensorDataset, Tensor]:
    """The data, and which labels are wrong."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    some = torch.randperm(len(labels), generator=generator)[:TRAIN]
    images, labels = images[some].float() / 16, labels[some]
    wrong = torch.randperm(TRAIN, generator=generator) < TRAIN // 10
    other = (labels + torch.randint(1, 10, (TRAIN,), generator=generator)) % 10
    return TensorDataset(images, torch.where(wrong, other, labels)), wrong


def trained(data: TensorDataset, seed: int, decay: float) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=decay)
    images, labels = data.tensors
    for _ in range(UPDATES):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def main() -> None:
    torch.set_num_threads(1)
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    peers = {
        f"kronfluence ekfac {'empirical' if empirical else 'sampled'}": kronfluence(
            "ekfac", empirical=empirical, own=True
        )
        for empirical in (False, True)
        if "kronfluence ekfac" in installed()
    }
    for decay in (1e-3, 3e-3):
        print(f"weight decay {decay:g}")
        found: dict[str, list[float]] = {}
        for seed in seeds:
            data, wrong = flipped(seed)
            model = trained(data, seed, decay)
            for method in METHODS:
                loader = DataLoader(data, batch_size=135)
                valuation = Valuation(model, nn.CrossEntropyLoss(), method=method, weight_decay=decay).log(loader)
                text = " ".join(f"{value}" if key == "name" else f"{key}={value}" for key, value in method.items())
                found.setdefault(text, []).append(roc_auc_score(wrong, valuation.self_influence()))
            for name, peer in peers.items():
                found.setdefault(name, []).append(roc_auc_score(wrong, peer(model, data, data)))
        for name, each in found.items():
            print(f"  {name:<32} {sum(each) / len(each):.4f}   {'  '.join(f'{one:.4f}' for one in each)}")


if __name__ == "__main__":
    main()
