"""Evolution strategies: the mean against closed forms, repeatability, purity, and lowers without derivatives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, optim

from betty.backends.torch.errors import RunError
from betty.backends.torch.objective import ParameterModule, View
from betty.backends.torch.trajectory.replay import player
from betty.backends.torch.trajectory.tuning import Tuned
from betty.backends.torch.tree import zeros_like
from betty.ir.methods import Method, preset
from tests.backend.test_remat import noisy
from tests.support.compare import assert_close, assert_same, assert_untouched, flat, picture
from tests.support.optimizers import OPTIMIZER_CASES
from tests.support.programs import Built, Part, assemble, edge
from tests.support.quadratics import LAYOUTS, QuadraticProgram, build, programs, random_points
from tests.support.unrolling import D, Lower, hypergradient

CASES = {str(case): case for case in OPTIMIZER_CASES}


def strategies(steps: int, samples: int, sigma: float = 0.05) -> Method:
    return preset("evolution_strategies", {"steps": steps, "samples": samples, "sigma": sigma})


@settings(max_examples=5)
@given(program=programs(st.just(LAYOUTS["two levels"])), seed=st.integers(0, 99), steps=st.integers(1, 3))
def test_the_mean_is_the_derivative_within_its_standard_error(program: QuadraticProgram, seed: int, steps: int) -> None:
    """Under gradient descent on a quadratic the response is linear, and the estimate has no bias."""
    script = ["low"] * 4
    exact = build(program, preset("unrolled", {"steps": steps}), random_points(program, seed))
    exact.follow(script)
    built = build(program, strategies(steps, samples=2, sigma=0.5), random_points(program, seed))
    built.follow(script)
    draws = []
    for count in range(80):
        built.program["top"].count = count
        draws.append(hypergradient(built, "top"))
    found = torch.stack(draws)
    error = found.std(dim=0) / len(draws) ** 0.5
    # Five standard errors in each entry: a mistake of a sign or a factor of two lies far beyond.
    assert bool(((found.mean(dim=0) - hypergradient(exact, "top")).abs() <= 5 * error + 1e-9).all())
    assert bool((error > 0).any())


def test_one_pair_in_closed_form() -> None:
    """One update, one entry: the difference of the two ends is linear in the draw, and so known."""

    def loss(low: View, up: View) -> Tensor:
        return 0.5 * (low.parameters["w"] - up.parameters["x"]).square().sum()

    def goal(low: View) -> Tensor:
        return 3 * low.parameters["w"].sum()

    low = Part(name="low", module=ParameterModule({"w": torch.zeros(1, dtype=D)}), loss=loss)
    up = Part(name="up", module=ParameterModule({"x": torch.ones(1, dtype=D)}), loss=goal)
    built = assemble([low, up], [edge("up", "low", strategies(1, samples=1, sigma=0.3))])
    built.follow(["low"])
    noise = torch.randn(1, generator=torch.Generator().manual_seed(1), dtype=D)
    assert_close(hypergradient(built), 3 * 0.1 * noise**2, 1e-10)


@pytest.mark.parametrize("optimizer", ["SGD,momentum=0.8", "Adam", "AdamW,weight_decay=0.1", "RMSprop"])
@pytest.mark.parametrize(("before", "steps", "accumulation"), [(0, 1, 1), (2, 3, 2), (3, 5, 1)])
def test_without_a_perturbation_the_updates_are_those_made(
    optimizer: str, before: int, steps: int, accumulation: int
) -> None:
    case = next(case for name, case in CASES.items() if name.startswith(optimizer))
    built = Lower(case, accumulation, 0.5).live(steps, strategies(steps, samples=1))
    built.follow(["low"] * (before + steps) * accumulation)
    play = player(built.program["low"], steps)
    assert play is not None
    end = play({"up": zeros_like(built.program.parameters("up"))})
    torch.testing.assert_close(flat(end), flat(built.program.parameters("low")), rtol=1e-10, atol=1e-12)


def test_masks_buffers_and_schedules_are_those_of_the_updates() -> None:
    torch.manual_seed(1)
    built = noisy(strategies(4, samples=1))
    built.follow(["low"] * 7)
    play = player(built.program["low"], 4)
    assert play is not None
    torch.testing.assert_close(flat(play({})), flat(built.program.parameters("low")), rtol=1e-10, atol=1e-12)


def test_looking_changes_nothing_and_the_step_to_come_draws_the_same() -> None:
    torch.manual_seed(1)
    built = noisy(strategies(4, samples=2))
    built.follow(["low"] * 6)
    before = picture(built)
    first = hypergradient(built)
    assert_untouched(before, picture(built))
    assert_same([hypergradient(built)], [first])
    taken = built.executor.step("up").gradient
    assert_same([flat(taken)], [first])
    assert not torch.equal(hypergradient(built), first)


class Halving(optim.Optimizer):
    """An optimiser that nobody knows, with an attribute and a state of its own."""

    def __init__(self, parameters: object, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})  # type: ignore[arg-type]
        self.factor = 0.5

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for leaf in group["params"]:
                state = self.state[leaf]
                state["rate"] = state.get("rate", group["lr"] / self.factor) * self.factor
                leaf.sub_(state["rate"] * leaf.grad.sign() * leaf.grad.abs().sqrt())


def unknown(kind: type[optim.Optimizer], x: float, method: Method) -> Built:
    """Three updates by an optimiser that has no differentiable one."""

    def loss(batch: Tensor, low: View, up: View) -> Tensor:
        return ((low.parameters["w"] - up.parameters["x"]) * batch).square().sum()

    def goal(low: View) -> Tensor:
        return low.parameters["w"].sum()

    low = Part(
        name="low",
        module=ParameterModule({"w": torch.tensor([0.7, -0.4], dtype=D)}),
        loss=loss,
        batches=[torch.tensor([1.0, 2.0], dtype=D), torch.tensor([0.5, 1.5], dtype=D)],
        optimizer=lambda parameters: kind(parameters, lr=0.05),  # type: ignore[call-arg]
    )
    up = Part(name="up", module=ParameterModule({"x": torch.tensor([x], dtype=D)}), loss=goal)
    result = assemble([low, up], [edge("up", "low", method)])
    result.follow(["low"] * 3)
    return result


def end(kind: type[optim.Optimizer], x: float) -> float:
    return float(flat(unknown(kind, x, strategies(3, samples=1)).program.parameters("low")).sum())


def test_an_optimiser_that_nobody_knows() -> None:
    slope = (end(Halving, 0.101) - end(Halving, 0.099)) / 0.002
    found = float(hypergradient(unknown(Halving, 0.1, strategies(3, samples=400, sigma=0.01))))
    assert found == pytest.approx(slope, rel=0.25)


def test_an_optimiser_of_signs() -> None:
    """Rprop's derivative is zero wherever it exists; smoothed, the lower follows the upper."""
    assert end(optim.Rprop, 0.101) == end(optim.Rprop, 0.099)
    wide = [end(optim.Rprop, 0.1 + shift) for shift in (1.0, -1.0)]
    found = float(hypergradient(unknown(optim.Rprop, 0.1, strategies(3, samples=200, sigma=1.0))))
    assert 0 < found < wide[0] - wide[1]


def test_a_loss_that_no_derivative_passes_through() -> None:
    """The upper enters by a rounded number, whose derivative is zero wherever it exists."""

    def loss(low: View, up: View) -> Tensor:
        level = torch.floor(10 * up.parameters["x"].detach()) / 10
        return 0.5 * (low.parameters["w"] - level).square().sum()

    def goal(low: View, up: View) -> Tensor:
        return low.parameters["w"].sum()

    def built(method: Method) -> Built:
        low = Part(name="low", module=ParameterModule({"w": torch.zeros(1, dtype=D)}), loss=loss)
        up = Part(name="up", module=ParameterModule({"x": torch.tensor([0.35], dtype=D)}), loss=goal)
        result = assemble([low, up], [edge("up", "low", method)])
        result.follow(["low"])
        return result

    smoothed = float(hypergradient(built(strategies(1, samples=400, sigma=0.5))))
    assert smoothed == pytest.approx(0.1, rel=0.25)
    assert float(hypergradient(built(preset("unrolled", {"steps": 1})))) == 0


def test_hyperparameters_are_perturbed_too() -> None:
    """The derivative of one update of gradient descent by its rate: minus the gradient."""

    def loss(low: View) -> Tensor:
        return 0.5 * low.parameters["w"].square().sum()

    def goal(low: View) -> Tensor:
        return low.parameters["w"].sum()

    low = Part(
        name="low",
        module=ParameterModule({"w": torch.tensor([2.0], dtype=D)}),
        loss=loss,
        tuned=(Tuned("lr", "up", 0),),
    )
    up = Part(name="up", module=ParameterModule({"x": torch.tensor([0.3], dtype=D)}), loss=goal)
    built = assemble([low, up], [edge("up", "low", strategies(1, samples=500, sigma=0.01))])
    built.follow(["low"])
    assert float(hypergradient(built)) == pytest.approx(-2.0, rel=0.25)


def test_values_that_someone_else_has_written_stand() -> None:
    built = Lower(CASES["SGD"]).live(4, strategies(4, samples=1))
    built.follow(["low", "low"])
    with torch.no_grad():
        for leaf in built.program.parameters("low"):
            leaf.clamp_(-0.1, 0.1)
    built.follow(["low", "low"])
    play = player(built.program["low"], 4)
    assert play is not None
    torch.testing.assert_close(flat(play({})), flat(built.program.parameters("low")), rtol=1e-10, atol=1e-12)


def test_a_lower_that_has_not_moved_yet() -> None:
    built = Lower(CASES["SGD"]).live(1, strategies(1, samples=1))
    with pytest.raises(RunError, match="'low' has made no update yet"):
        hypergradient(built)
