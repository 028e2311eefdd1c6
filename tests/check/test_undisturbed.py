"""A check leaves the engine, its data and the process as they were, and a run after it is the run without it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from betty import Engine, RunError
from betty.backends.torch.random import RandomState
from tests.engine.conftest import spec

__all__ = ["spec"]


def state(engine: Engine) -> dict[str, Any]:
    """Everything of an engine that a run changes."""
    found: dict[str, Any] = {"iteration": engine.iteration}
    for name, problem in engine._program.problems.items():
        found |= {f"{name}.{key}": value.clone() for key, value in problem.module.state_dict().items()}
        found |= {f"{name}.count": problem.count, f"{name}.version": problem.version, f"{name}.kept": len(problem.kept)}
        assert problem.optimizer is not None
        for index, values in problem.optimizer.state_dict()["state"].items():
            found |= {f"{name}.{index}.{key}": torch.as_tensor(value).clone() for key, value in values.items()}
    return found


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
        assert same, key


def quick_check(engine: Engine) -> None:
    engine.check(iterations=4, points=2, most_steps=30)


def test_engine_is_bit_for_bit_the_same(spec: Path) -> None:
    checked, plain = Engine(spec), Engine(spec)
    for engine in (checked, plain):
        engine.run(5)
    before, batch = state(checked), checked._program["classifier"].stream.peek()  # type: ignore[union-attr]
    quick_check(checked)
    assert_same(before, state(checked))
    assert checked._program["classifier"].stream.peek() is batch  # type: ignore[union-attr]
    for engine in (checked, plain):
        engine.run(7)
    assert_same(state(plain), state(checked))


def test_generators_of_the_process_are_left_alone(spec: Path) -> None:
    engine = Engine(spec)
    before = RandomState.capture(torch.device("cpu"))
    quick_check(engine)
    after = RandomState.capture(torch.device("cpu"))
    assert torch.equal(before.cpu, after.cpu) and before.python == after.python
    assert all(np.array_equal(one, other) for one, other in zip(before.numpy, after.numpy, strict=True))


def live(data: Any, method: str = "unrolled") -> dict[str, Any]:
    """A program of live objects, whose module, optimiser and loader the caller holds as well."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 1))

    def fit(batch: Any, net: Any, scale: Any) -> Tensor:
        x, y = batch
        noise = random.random()
        return (net(x).squeeze() - y).square().mean() * scale.parameters["log"].exp() * (1 + 0.1 * noise)

    def judge(net: Any) -> Tensor:
        weights: Tensor = net.parameters["0.weight"].square().sum()
        return weights

    return {
        "name": "live",
        "problems": {
            "net": {
                "module": net,
                "loss": fit,
                "data": data,
                "optimizer": torch.optim.Adam(net.parameters(), lr=0.01),
                "unroll": 2,
            },
            "scale": {"parameters": {"log": {}}, "loss": judge, "optimizer": {"target": torch.optim.SGD, "lr": 0.1}},
        },
        "edges": [{"upper": "scale", "lower": "net", "method": method}],
        "engine": {"device": "cpu", "iterations": 8},
    }


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 3, generator=generator)
    return DataLoader(TensorDataset(x, x.sum(dim=1)), batch_size=6, shuffle=True, generator=generator)


@pytest.mark.parametrize("method", ["unrolled", "finite_difference"])
def test_live_objects_are_not_trained(method: str) -> None:
    checked, plain = Engine(live(loader(), method)), Engine(live(loader(), method))
    before = state(checked)
    quick_check(checked)
    assert_same(before, state(checked))
    for engine in (checked, plain):
        engine.run(8)
    assert_same(state(plain), state(checked))


def test_a_live_generator_cannot_be_checked() -> None:
    batches = ((torch.ones(4, 3), torch.ones(4)) for _ in range(100))
    with pytest.raises(RunError, match="a live generator that cannot be copied"):
        quick_check(Engine(live(batches)))


def test_a_check_goes_on_from_where_the_engine_stands(spec: Path) -> None:
    """A lower that has been trained is nearer to its solution; its check sees that."""
    engine = Engine(spec, overrides=["problems.weigher.optimizer.lr=0.0"])
    start = engine.check(iterations=1, points=1, most_steps=0)
    engine.run(200)
    later = engine.check(iterations=1, points=1, most_steps=0)
    assert start.edges[0].rows[0].measurements[0].error != later.edges[0].rows[0].measurements[0].error
    assert engine.iteration == 200
