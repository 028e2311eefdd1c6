"""Extra evaluations of a loss leave no trace, and see what the lower's step has seen."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from betty.backends.torch.executor import Executor
from betty.backends.torch.objective import ParameterModule, View
from betty.ir.methods import INVERSES, PRODUCTS, Method, complete, preset
from betty.ir.plan import Respond, Step
from betty.ir.records import Call
from tests.support.compare import assert_same, assert_untouched, flat, picture
from tests.support.programs import Built, Part, assemble, edge

METHODS: dict[str, Method] = {
    f"{inverse}+{product}": Method(
        solver=complete(
            inverse, INVERSES[inverse], {"iterations": 3} if "iterations" in INVERSES[inverse].options else {}
        ),
        product=Call(name=product, options=complete(product, PRODUCTS[product], {}).options),
    )
    for inverse in INVERSES
    for product in PRODUCTS
} | {
    "unrolled": preset("unrolled", {"steps": 2}),
    "penalty": preset("penalty", {"iterations": 2}),
}
IMPLICIT = sorted(set(METHODS) - {"unrolled"})


class Noisy(nn.Module):
    """Dropout, batch statistics, a buffer that is replaced instead of written to, one that the first call makes."""

    seen: Tensor
    late: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.4)
        self.last = nn.Linear(8, 1)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("late", None)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1
        self.late = x.detach().mean() if self.late is None else 0.9 * self.late
        mask = self.drop(torch.ones(len(x), 8))
        self.masks.append(mask)
        found: Tensor = self.last(torch.tanh(self.norm(self.first(x))) * mask)
        return found


class Fuse:
    """Raises at the call that it is set to."""

    def __init__(self) -> None:
        self.calls, self.limit = 0, -1

    def burn(self) -> None:
        self.calls += 1
        if self.calls == self.limit:
            raise ArithmeticError("blown")


def noisy_program(method: Method, accumulation: int = 1) -> tuple[Built, Noisy, Fuse]:
    low, fuse = Noisy(), Fuse()

    def low_loss(batch: Tensor, low: View, up: View) -> dict[str, Any]:
        noise = random.random() + float(np.random.rand())
        value = (low(batch + noise) - up.parameters["goal"]).square().mean()
        fuse.burn()
        return {"loss": value + torch.rand(()) * value, "noise": noise}

    def up_loss(batch: Tensor, low: View, up: View) -> Tensor:
        value = (low(batch) + random.random()).square().mean() + up.parameters["goal"].square()
        fuse.burn()
        return value

    parts = [
        Part(name="low", module=low, loss=low_loss, batches=torch.randn(9, 6, 3).unbind(), accumulation=accumulation),
        Part(
            name="up",
            module=ParameterModule({"goal": torch.ones(())}),
            loss=up_loss,
            batches=torch.randn(4, 6, 3).unbind(),
            optimizer=lambda p: torch.optim.Adam(p, lr=0.1),
        ),
    ]
    built = assemble(parts, [edge("up", "low", method)])
    built.follow(["low"] * 2 * accumulation + ["up"] + ["low"] * accumulation)
    return built, low, fuse


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_hypergradient_changes_nothing_and_comes_out_the_same_again(method: str) -> None:
    built, _, _ = noisy_program(METHODS[method])
    before = picture(built)
    first = built.executor.hypergradient("up")
    assert_untouched(before, picture(built))
    second = built.executor.hypergradient("up")
    assert_same(first.gradient, second.gradient)
    assert torch.equal(first.loss, second.loss)
    assert bool(torch.isfinite(flat(first.gradient)).all())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_hypergradient_does_not_change_how_the_program_goes_on(method: str) -> None:
    script = ["low", "low", "up", "low", "up"]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    plain, _, _ = noisy_program(METHODS[method])
    plain.follow(script)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    asked, _, _ = noisy_program(METHODS[method])
    for name in script:
        asked.executor.hypergradient("up")
        asked.executor.step(name)
    assert_same(list(asked.everything()), list(plain.everything()))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_exception_in_the_middle_changes_nothing_either(method: str) -> None:
    built, _, fuse = noisy_program(METHODS[method])
    fuse.calls = 0
    built.executor.hypergradient("up")
    total = fuse.calls
    assert total == 1 if method == "unrolled" else total >= 2
    for limit in range(1, total + 1):
        before = picture(built)
        fuse.calls, fuse.limit = 0, limit
        with pytest.raises(ArithmeticError, match="blown"):
            built.executor.hypergradient("up")
        fuse.limit = -1
        assert_untouched(before, picture(built))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_response_in_a_step_changes_nothing(method: str) -> None:
    """In a step the loss itself moves buffers and random states on; the response after it must not."""
    built, _, _ = noisy_program(METHODS[method])
    pictured = []

    def around(step: Step, index: int, run: Callable[[], None]) -> None:
        before = picture(built)
        run()
        if isinstance(step.instructions[index], Respond):
            assert_untouched(before, picture(built))
            pictured.append(step.problem)

    Executor(built.plan, built.program, around).step("up")
    assert pictured == ["up"]


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("method", IMPLICIT)
def test_a_response_sees_the_dropout_masks_of_the_last_update(method: str, accumulation: int) -> None:
    built, low, _ = noisy_program(METHODS[method], accumulation)
    stepped = low.masks[-accumulation:]
    low.masks.clear()
    built.executor.hypergradient("up")
    replayed = low.masks[1:]  # the first mask is that of the upper's own loss
    assert len(replayed) >= accumulation
    assert len(replayed) % accumulation == 0
    for index, mask in enumerate(replayed):
        assert torch.equal(mask, stepped[index % accumulation])


@pytest.mark.parametrize("method", IMPLICIT)
def test_a_batch_that_is_given_takes_the_place_of_the_kept_ones(method: str) -> None:
    built, low, _ = noisy_program(METHODS[method])
    shapes: list[int] = []
    low.first.register_forward_pre_hook(lambda module, inputs: shapes.append(len(inputs[0])))
    given = {"up": torch.randn(5, 3), "low": torch.randn(4, 3)}
    before = picture(built)
    built.executor.hypergradient("up", given)
    assert_untouched(before, picture(built))
    assert shapes[0] == 5
    assert set(shapes[1:]) == {4}


@pytest.mark.parametrize("method", IMPLICIT)
def test_before_the_first_step_the_next_batch_is_looked_at_and_not_taken(method: str) -> None:
    batches = torch.randn(4, 6, 3).unbind()

    def low_loss(batch: Tensor, low: View, up: View) -> Tensor:
        return (low(batch) - up.parameters["goal"]).square().mean()

    def up_loss(batch: Tensor, low: View) -> Tensor:
        return low(batch).square().mean()

    def fresh() -> Built:
        torch.manual_seed(0)
        up = Part(name="up", module=ParameterModule({"goal": torch.ones(())}), loss=up_loss, batches=batches)
        low = Part(name="low", module=nn.Linear(3, 1), loss=low_loss, batches=batches)
        return assemble([low, up], [edge("up", "low", METHODS[method])])

    asked, plain = fresh(), fresh()
    asked.executor.hypergradient("up")
    asked.follow(["low", "up"])
    plain.follow(["low", "up"])
    assert_same(list(asked.everything()), list(plain.everything()))


class Masked(nn.Module):
    """A buffer takes part in the product, so that autograd saves it."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight * self.mask)


def test_kept_trajectories_survive_a_look_at_the_hypergradient() -> None:
    """Their graphs have saved the buffers themselves: to copy old values back into those would spoil them."""

    def low_loss(batch: Tensor, low: View, up: View) -> Tensor:
        return (low(batch) - up.parameters["goal"]).square().mean()

    def up_loss(low: View) -> Tensor:
        return low(torch.ones(1, 3)).square().sum()

    low = Part(name="low", module=Masked(), loss=low_loss, batches=torch.randn(4, 6, 3).unbind())
    up = Part(name="up", module=ParameterModule({"goal": torch.ones(())}), loss=up_loss)
    built = assemble([low, up], [edge("up", "low", METHODS["unrolled"])])
    built.follow(["low", "low"])
    first = built.executor.hypergradient("up").gradient
    assert_same(built.executor.hypergradient("up").gradient, first)
    assert_same(built.executor.step("up").gradient, first)
