"""Estimators that need first derivatives alone: penalties, and the score function of what a lower draws."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch.errors import RunError
from betty.backends.torch.executor import Executor
from betty.backends.torch.objective import ParameterModule, View
from betty.ir.compile import compile_graph
from betty.ir.methods import Method, preset
from tests.support.compare import assert_close, assert_same, flat
from tests.support.programs import Built, Part, assemble, edge

D = torch.float64


def bend(low: View, up: View) -> Tensor:
    """A lower whose third derivatives are not zero; its minimum is where ``sinh w = x``."""
    w, x = low.parameters["w"], up.parameters["x"]
    return (torch.cosh(w) - w * x).sum()


def goal(low: View, up: View) -> Tensor:
    return (low.parameters["w"] - 2.0).square().sum() + 0.1 * up.parameters["x"].square().sum()


def bent(method: Method, x: list[float]) -> Built:
    """The program with its lower at the minimum."""
    upper = torch.tensor(x, dtype=D)
    low = ParameterModule({"w": torch.asinh(upper)})
    parts = [
        Part(name="low", module=low, loss=bend, optimizer=lambda p: torch.optim.SGD(p, lr=0.0)),
        Part(name="up", module=ParameterModule({"x": upper}), loss=goal),
    ]
    built = assemble(parts, [edge("up", "low", method)])
    built.follow(["low"])
    return built


def exact(x: list[float]) -> Tensor:
    upper = torch.tensor(x, dtype=D)
    return 0.2 * upper + 2 * (torch.asinh(upper) - 2) / torch.sqrt(1 + upper.square())


points = st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=3)


@settings(max_examples=20)
@given(x=points)
def test_the_error_of_a_penalty_falls_with_its_multiplier(x: list[float]) -> None:
    errors = []
    for multiplier in (1e3, 1e4):
        method = preset("penalty", {"iterations": 200, "alpha": 0.3, "multiplier": multiplier})
        found = flat(bent(method, x).executor.hypergradient("up").gradient)
        errors.append(float((found - exact(x)).norm()))
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 5 + 1e-8


def test_a_multiplier_grows_with_the_steps_of_the_upper() -> None:
    built = bent(preset("penalty", {"multiplier": 10.0, "growth": 2.5}), [0.5])
    found = [float(built.executor.step("up").metrics["low.multiplier"]) for _ in range(3)]
    assert found == [10.0, 12.5, 15.0]
    built.executor.hypergradient("up")
    assert float(built.executor.step("up").metrics["low.multiplier"]) == 17.5


def test_a_penalty_that_starts_warm_needs_fewer_iterations() -> None:
    options = {"iterations": 3, "alpha": 0.3, "multiplier": 1e4}
    cold, warm = (bent(preset("penalty", options | {"warm_start": flag}), [0.5, -1.0]) for flag in (False, True))
    for built in (cold, warm):
        for parameter in built.program.parameters("up"):
            built.optimizer("up").param_groups[0]["lr"] = 0.0
            assert parameter.requires_grad
    found = {}
    for name, built in (("cold", cold), ("warm", warm)):
        for _ in range(8):
            outcome = built.executor.step("up")
        found[name] = float((flat(outcome.gradient) - exact([0.5, -1.0])).norm())
    assert found["warm"] < found["cold"] / 10


def test_a_lower_that_has_not_converged_does_not_answer_to_its_own_motion() -> None:
    """With an adjoint of zero the response is zero, wherever the lower stands."""
    low = ParameterModule({"w": torch.tensor([3.0], dtype=D)})
    up = ParameterModule({"x": torch.tensor([0.5], dtype=D)})

    def silent(low: View, up: View) -> Tensor:
        return 0.0 * low.parameters["w"].sum() + up.parameters["x"].sum()

    parts = [Part(name="low", module=low, loss=bend), Part(name="up", module=up, loss=silent)]
    built = assemble(parts, [edge("up", "low", preset("penalty"))])
    built.follow(["low"])
    assert flat(built.executor.hypergradient("up").gradient).tolist() == [1.0]


# -- the score function


def drawn(low: View, up: View) -> dict[str, Tensor]:
    """Descend towards +1 or -1, as a coin decides whose bias the upper sets."""
    coin = torch.distributions.Bernoulli(logits=up.parameters["logits"])
    side = coin.sample()
    pull = (low.parameters["w"] - (2 * side - 1)).square().sum()
    return {"loss": pull, "log_prob": coin.log_prob(side).sum()}


def wish(low: View, up: View) -> Tensor:
    return (low.parameters["w"] - 0.7).square().sum() + 0.0 * up.parameters["logits"].sum()


RATE = 0.2


def policy(logit: float, steps: int, seed: int, loss: Any = drawn) -> Built:
    torch.manual_seed(seed)
    parts = [
        Part(
            name="low",
            module=ParameterModule({"w": torch.zeros(1, dtype=D)}),
            loss=loss,
            optimizer=lambda p: torch.optim.SGD(p, lr=RATE),
            unroll=steps,
        ),
        Part(name="up", module=ParameterModule({"logits": torch.tensor([logit], dtype=D)}), loss=wish),
    ]
    return assemble(parts, [edge("up", "low", preset("reinforce", {"decay": 1.0}))])


def expected_loss(logits: Tensor, steps: int) -> Tensor:
    """The upper's loss after ``steps`` updates, over all outcomes of the coin."""
    outcomes = [(torch.zeros(1, dtype=D), torch.ones((), dtype=D))]
    for _ in range(steps):
        chance = torch.sigmoid(logits)[0]
        outcomes = [
            (w - RATE * 2 * (w - side), weight * part)
            for w, weight in outcomes
            for side, part in ((1.0, chance), (-1.0, 1 - chance))
        ]
    return torch.stack([weight * (w - 0.7).square().sum() for w, weight in outcomes]).sum()


@pytest.mark.parametrize(("logit", "steps"), [(0.4, 1), (-0.8, 3)])
def test_the_mean_of_the_score_function_is_the_derivative_of_the_expectation(logit: float, steps: int) -> None:
    found = []
    built = policy(logit, steps, seed=1)
    for _ in range(600):
        with torch.no_grad():
            built.program.parameters("low")[0].zero_()
        built.follow(["low"] * steps)
        found.append(built.executor.hypergradient("up").gradient[0])
    estimates = torch.stack(found)
    logits = torch.tensor([logit], dtype=D, requires_grad=True)
    (truth,) = torch.autograd.grad(expected_loss(logits, steps), logits)
    error = estimates.std(0) / len(found) ** 0.5
    assert float((estimates.mean(0) - truth).abs()) < 4 * float(error)
    assert float(truth.abs()) > 4 * float(error), "the estimate could as well be zero"


def test_the_draws_are_those_of_the_updates() -> None:
    """The derivative of the log-probability of what has happened, times the loss: nothing is drawn again."""
    built = policy(0.3, 2, seed=5)
    built.follow(["low", "low"])
    w = float(built.program.parameters("low")[0].detach())
    chance = float(torch.sigmoid(torch.tensor(0.3, dtype=D)))
    ends = {}
    for first in (1.0, -1.0):
        for second in (1.0, -1.0):
            place = 0.0
            for side in (first, second):
                place -= RATE * 2 * (place - side)
            ends[round(place, 9)] = sum((1 - chance) if side > 0 else -chance for side in (first, second))
    before = torch.get_rng_state()
    gradient = float(built.executor.hypergradient("up").gradient[0])
    assert gradient == pytest.approx((w - 0.7) ** 2 * ends[round(w, 9)], rel=1e-9)
    assert torch.equal(before, torch.get_rng_state())


def test_the_baseline_is_a_running_mean_of_earlier_losses() -> None:
    built = policy(0.3, 1, seed=2)
    method = preset("reinforce", {"decay": 0.5})
    executor = Executor(compile_graph(built.graph.map(edge=partial(replace, method=method))).plan, built.program)
    losses, baselines = [], []
    for _ in range(4):
        executor.step("low")
        outcome = executor.step("up")
        losses.append(float(outcome.loss))
        baselines.append(float(outcome.metrics["low.baseline"]))
    assert baselines[0] == 0.0
    mean = losses[0]
    for loss, baseline in zip(losses[1:], baselines[1:], strict=True):
        assert baseline == pytest.approx(mean)
        mean = 0.5 * mean + 0.5 * loss


@pytest.mark.parametrize("returned", ["nothing", "a number", "a constant"])
def test_a_loss_without_a_log_probability_is_named(returned: str) -> None:
    def loss(low: View, up: View) -> Any:
        value = low.parameters["w"].square().sum() + 0 * up.parameters["logits"].sum()
        constant = {"log_prob": torch.zeros(())}
        extra: dict[str, dict[str, Any]] = {"nothing": {}, "a number": {"log_prob": 0.5}, "a constant": constant}
        return {"loss": value, **extra[returned]}

    built = policy(0.0, 1, seed=0, loss=loss)
    built.follow(["low"])
    with pytest.raises(RunError, match="'low' to return 'log_prob'"):
        built.executor.step("up")


@pytest.mark.parametrize("name", ["penalty", "reinforce"])
def test_a_hypergradient_leaves_what_an_estimator_remembers(name: str) -> None:
    built = policy(0.3, 1, seed=3) if name == "reinforce" else bent(preset("penalty", {"warm_start": True}), [0.5])
    built.follow(["low", "up", "low"])
    before = {key: dict(value) for key, value in built.program["up"].memories.items()}
    first, again = (built.executor.hypergradient("up").gradient for _ in range(2))
    assert_same(first, again)
    assert built.program["up"].memories == before
    assert before["low"]
    assert_close(flat(built.executor.step("up").gradient), flat(first), 1e-12)
