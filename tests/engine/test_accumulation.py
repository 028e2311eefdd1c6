"""Micro-batches whose gradients make one update give the hypergradients of the batch that they make together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from betty import Engine

METHODS: dict[str, Any] = {
    "finite_difference": "finite_difference",
    "sama": "sama",
    "sama + forward": {"inverse": "sama", "product": "forward"},
    "cg": {"name": "cg", "iterations": 4, "damping": 2.0},
    "minres + forward": {"inverse": {"name": "minres", "iterations": 4, "damping": 2.0}, "product": "forward"},
    "neumann": {"name": "neumann", "iterations": 3},
    "nystrom": {"name": "nystrom", "rank": 3, "damping": 0.5},
    "dense": {"name": "dense", "damping": 2.0},
    "unrolled": "unrolled",
    "remat": {"name": "unrolled", "remat": True},
    "forward_mode": "forward_mode",
    "penalty": {"name": "penalty", "iterations": 3},
    "evolution_strategies": {"name": "evolution_strategies", "samples": 2},
}
ROUGH = ("finite_difference", "sama", "penalty", "evolution_strategies")
"""Differences of gradients or losses, which enlarge rounding."""


def fit(batch: Any, net: Any, decay: Any) -> Tensor:
    x, y = batch
    norm = (decay.parameters["log"].exp() * net.parameters["weight"].square()).sum()
    return F.cross_entropy(torch.tanh(net(x)), y) + norm


def judge(batch: Any, net: Any) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def engine(method: Any, batches: list[Any], clean: Any, accumulation: int, optimizer: str) -> Engine:
    torch.manual_seed(0)
    rate = {"target": f"torch.optim.{optimizer}", "lr": 0.05}
    net = {"module": nn.Linear(4, 3), "loss": fit, "data": batches, "optimizer": rate, "unroll": 2}
    decay = {"parameters": {"log": {"shape": [4], "init": -2.0}}, "loss": judge, "data": [clean], "optimizer": rate}
    return Engine(
        {
            "name": "accumulation",
            "problems": {"net": {**net, "gradient_accumulation": accumulation}, "decay": decay},
            "edges": [{"upper": "decay", "lower": "net", "method": method}],
            "engine": {"device": "cpu", "precision": "fp64"},
        }
    )


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=3, deadline=None)
@given(
    micro=st.integers(2, 4), size=st.integers(1, 5), seed=st.integers(0, 99), optimizer=st.sampled_from(["SGD", "Adam"])
)
def test_as_the_joined_batch(method: str, micro: int, size: int, seed: int, optimizer: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(micro * size, 4, generator=generator), torch.randint(0, 3, (micro * size,), generator=generator)
    clean = torch.randn(6, 4, generator=generator), torch.randint(0, 3, (6,), generator=generator)
    parts = list(zip(x.split(size), y.split(size), strict=True))
    split = engine(METHODS[method], parts, clean, micro, optimizer)
    joined = engine(METHODS[method], [(x, y)], clean, 1, optimizer)
    split.run(4 * micro)
    joined.run(4)
    limit = 1e-6 if method in ROUGH else 1e-9
    for name, module in joined.modules.items():
        for key, value in module.state_dict().items():
            torch.testing.assert_close(split.modules[name].state_dict()[key], value, rtol=limit, atol=limit)
