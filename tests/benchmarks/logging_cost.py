"""What logging by LoGra costs beside a plain forward and backward pass over the same batches, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from betty.valuation import Valuation

ROUNDS = 4


class Encoder(nn.Module):
    """Two layers of a transformer over sequences of 32 words."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 256, 0.0, batch_first=True)
        self.words, self.layers = nn.Embedding(500, 128), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(128, 10)

    def forward(self, text: Tensor) -> Tensor:
        found: Tensor = self.head(self.layers(self.words(text)).mean(1))
        return found


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def batches(inputs: Callable[[], Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(inputs(), torch.randint(0, 10, (64,))) for _ in range(60)]


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    programs: dict[str, tuple[nn.Module, list[tuple[Tensor, Tensor]]]] = {
        "MLP": (mlp(), batches(lambda: torch.randn(64, 256))),
        "transformer": (Encoder(), batches(lambda: torch.randint(0, 500, (64, 32)))),
    }
    for name, (model, data) in programs.items():
        for rank in (16, 64):
            plain, logged = [], []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                for inputs, labels in data:
                    model.zero_grad()
                    functional.cross_entropy(model(inputs), labels).backward()
                middle = time.perf_counter()
                model.zero_grad()
                options: dict[str, Any] = {"method": "logra", "rank": rank, "fisher": "empirical"}
                valuation = Valuation(model, nn.CrossEntropyLoss(), **options)
                valuation.fit(data)
                begun = time.perf_counter()
                valuation.log(data)
                plain.append(middle - start)
                logged.append(time.perf_counter() - begun)
            print(f"{name:<12} rank {rank:<3} logging takes {min(logged) / min(plain):.2f} of forward and backward")


if __name__ == "__main__":
    main()
