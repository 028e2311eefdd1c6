"""What a method evaluates beside the steps leaves no trace: masks, buffers, random states, counters, side effects."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from betty import Config, Engine, EngineConfig, Env, ImplicitProblem

METHODS: dict[str, Any] = {
    "darts": "darts",
    "sama": "sama",
    "cg": {"name": "cg", "iterations": 3},
    "neumann": {"name": "neumann", "iterations": 2, "alpha": 0.1},
    "minres": {"name": "minres", "iterations": 3},
    "nystrom": {"name": "nystrom", "rank": 3},
    "forward": {"inverse": "identity", "product": "forward"},
    "penalty": "penalty",
    "evolution_strategies": {"name": "evolution_strategies", "samples": 4},
    "unrolled": "unrolled",
    "remat": {"name": "unrolled", "remat": True},
    "forward_mode": "forward_mode",
}
DOUBLE = torch.float64


class Noisy(nn.Module):
    """Dropout and batch norm; counts how often it is evaluated, which is not undone, as modules are left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4, dtype=DOUBLE)
        self.norm = nn.BatchNorm1d(4, dtype=DOUBLE)
        self.out = nn.Linear(4, 1, dtype=DOUBLE)
        self.evaluated, self.breaks_at = 0, -1

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.norm(self.linear(inputs)))
        self.evaluated += 1
        if self.evaluated == self.breaks_at:
            raise ArithmeticError("on purpose")
        mask = torch.bernoulli(torch.full_like(hidden.detach(), 0.7))
        found: Tensor = self.out(hidden * mask)
        return found


class Decay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.zeros(1, dtype=DOUBLE))

    def forward(self) -> Tensor:
        return self.log.exp()


class Meter:
    def __init__(self) -> None:
        self.total, self.seen = 0.0, list[float]()

    def update(self, value: float) -> None:
        self.total += value
        self.seen.append(value)


class World(Env):
    visits = 0


CALLS = {"global": 0}


class Lower(ImplicitProblem):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls, self.losses, self.meter, self.drawn = 0, list[float](), Meter(), list[float]()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.calls += 1
        CALLS["global"] += 1
        self.env.visits += 1
        noise = random.random() + float(np.random.rand())
        self.drawn.append(noise)
        inputs, targets = batch
        loss = ((self(inputs) - targets) ** 2).mean() * (1 + noise)
        loss = loss + (self.decay() * (self.module.linear.weight**2).sum()).sum()  # type: ignore[attr-defined]
        self.losses.append(loss.item())
        self.meter.update(loss.item())
        print(f"step {self.calls}")
        return loss


class Upper(ImplicitProblem):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls = 0

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.calls += 1
        inputs, targets = batch
        return ((self.lower(inputs) - targets) ** 2).mean()  # type: ignore[attr-defined]


def program(method: str, steps: int = 2) -> Engine:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    net, decay = Noisy(), Decay()
    data = [[(torch.randn(6, 3, dtype=DOUBLE), torch.randn(6, 1, dtype=DOUBLE))] for _ in range(2)]
    lower = Lower(
        "lower",
        Config(type=METHODS[method], unroll_steps=steps, precision="fp64"),
        net,
        torch.optim.Adam(net.parameters(), 0.01),
        None,
        data[0],
    )
    upper = Upper("decay", Config(precision="fp64"), decay, torch.optim.Adam(decay.parameters(), 0.01), None, data[1])
    return Engine(
        problems=[lower, upper],
        dependencies={"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
        config=EngineConfig(strategy="cpu"),
        env=World(),
    )


def state(engine: Engine) -> list[Any]:
    """Everything that an evaluation could change, as values that compare."""
    lower, upper = engine.problems
    tensors = [one.clone() for problem in engine.problems for one in problem.module.state_dict().values()]
    adam = [value["step"].item() for problem in engine.problems for value in problem.optimizer.state.values()]
    counts = [lower.count, upper.count, lower.calls, upper.calls, len(lower.losses), engine.env.visits]  # type: ignore[attr-defined]
    numpy = np.random.get_state(legacy=True)
    return [
        [one.tolist() for one in tensors],
        adam,
        counts,
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(numpy),
    ]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS["global"] = 0
    np.set_printoptions(threshold=10_000)


@pytest.mark.parametrize("method", METHODS)
def test_side_effects_happen_once_a_step(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    engine = program(method)
    lower, upper = engine.problems
    for _ in range(6):
        engine.train_step()
    assert (lower.calls, upper.calls) == (6, 3)  # type: ignore[attr-defined]
    assert len(lower.losses) == len(lower.drawn) == 6 and lower.meter.seen == lower.losses  # type: ignore[attr-defined]
    assert engine.env.visits == CALLS["global"] == 6
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")] == [
        f"step {index}" for index in range(1, 7)
    ]
    if METHODS[method] != "unrolled":
        assert lower.module.evaluated > 6 + 3 + 2, "more often than by steps, and by the compiler's looking once"


@pytest.mark.parametrize("method", METHODS)
def test_a_hypergradient_leaves_everything_bit_for_bit(method: str) -> None:
    engine = program(method)
    for _ in range(3):
        engine.train_step()
    before = state(engine)
    first = engine.hypergradient("decay")
    assert state(engine) == before
    assert torch.equal(first["log"], engine.hypergradient("decay")["log"]) and first["log"].abs() > 0


@pytest.mark.parametrize("method", ["darts", "cg", "neumann", "nystrom", "penalty", "evolution_strategies", "remat"])
def test_an_exception_in_an_extra_evaluation_leaves_no_trace(method: str) -> None:
    engine, plain = program(method), program(method)
    lower = engine.problems[0]
    randoms = state(engine)[3:]
    for _ in range(3):
        engine.train_step()
    steps = state(engine)
    lower.module.breaks_at = lower.module.evaluated + 2
    with pytest.raises(ArithmeticError, match="on purpose"):
        engine.hypergradient("decay")
    assert state(engine) == steps
    for _ in range(3):
        engine.train_step()
    _seed(randoms)
    for _ in range(6):
        plain.train_step()
    assert state(engine)[:3] == state(plain)[:3], "it goes on as if nothing had happened"


def _seed(states: list[Any]) -> None:
    torch.set_rng_state(torch.tensor(states[0], dtype=torch.uint8))
    random.setstate(states[1])
    np.random.seed(0)


@pytest.mark.parametrize("method", ["darts", "cg", "forward"])
def test_extra_evaluations_draw_the_masks_of_the_step(method: str) -> None:
    engine = program(method, steps=1)
    upper = engine.problems[1]
    masks: list[Tensor] = []
    plain = torch.bernoulli

    def noted(*args: Any, **kwargs: Any) -> Tensor:
        masks.append(plain(*args, **kwargs))
        return masks[-1]

    engine.train_step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "bernoulli", noted)
        engine.train_step()
    step, own, extra = masks[0], masks[1], masks[2:]
    assert extra and all(torch.equal(mask, step) for mask in extra), "those of the lower's step"
    assert not torch.equal(step, own), "the upper's evaluation draws anew"
    assert upper.count == 2


def test_numpy_and_python_draws_are_those_of_the_step() -> None:
    engine = program("darts", steps=1)
    drawn: list[float] = []
    plain = random.random

    def noted() -> float:
        drawn.append(plain())
        return drawn[-1]

    engine.train_step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "random", noted)
        engine.train_step()
    assert len(drawn) == 3 and len(set(drawn)) == 1
