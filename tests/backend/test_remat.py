"""Updates computed again from records against the graphs of the very updates: values and derivatives."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from betty.backends.torch.executor import Executor
from betty.backends.torch.objective import View
from betty.ir.methods import Method, preset
from tests.support.compare import assert_close, assert_same, assert_untouched, flat, picture
from tests.support.optimizers import OPTIMIZER_CASES, OptimizerCase
from tests.support.programs import Built, Part, assemble, edge
from tests.support.towers import Tower
from tests.support.unrolling import Lower, hypergradient, upper_module

PLAIN = OPTIMIZER_CASES[0]
CASES = {str(case): case for case in OPTIMIZER_CASES}


def unrolled(steps: int, *, remat: bool) -> Method:
    return preset("unrolled", {"steps": steps, "remat": remat})


def both(case: OptimizerCase, steps: int, script: list[str], accumulation: int, clipping: float | None) -> list[Built]:
    """The same history with graphs kept, and with records."""
    found = []
    for remat in (False, True):
        built = Lower(case, accumulation, clipping).live(steps, unrolled(steps, remat=remat))
        built.follow(script)
        found.append(built)
    return found


@pytest.mark.parametrize("case", OPTIMIZER_CASES, ids=str)
def test_every_optimiser_gives_the_same_hypergradient(case: OptimizerCase) -> None:
    plain, again = both(case, 5, ["low"] * 7, 1, 0.5)
    assert_same(again.program.parameters("low"), plain.program.parameters("low"))
    assert_close(hypergradient(again), hypergradient(plain), 1e-12)


@settings(max_examples=25)
@given(
    case=st.sampled_from(OPTIMIZER_CASES),
    steps=st.integers(1, 17),
    script=st.lists(st.sampled_from(["low", "low", "low", "up"]), min_size=1, max_size=24),
    accumulation=st.integers(1, 3),
    clipping=st.sampled_from([None, 0.3]),
)
def test_any_history_gives_the_same_hypergradient(
    case: OptimizerCase, steps: int, script: list[str], accumulation: int, clipping: float | None
) -> None:
    """Windows that begin inside a block, uppers that step in between and inside an accumulated update."""
    script = ["low"] * accumulation + script
    plain, again = both(case, steps, script, accumulation, clipping)
    assert_same(again.program.parameters("low"), plain.program.parameters("low"))
    assert_close(hypergradient(again), hypergradient(plain), 1e-12)


@pytest.mark.parametrize("script", ["LLLLLMMMMM", "LLLMLLLMLLLM", "LMLMLMLML"])
@pytest.mark.parametrize("kinds", [("SGD,momentum=0.8", "Adam"), ("AdamW", "SGD")], ids="/".join)
def test_three_levels(script: str, kinds: tuple[str, str]) -> None:
    toy = Tower(CASES[kinds[0]], CASES[kinds[1]], skip=True, accumulation=1)
    found = []
    for low, mid in ((False, False), (True, True), (True, False), (False, True)):
        built = toy.live(unrolled(5, remat=low), unrolled(4, remat=mid))
        built.follow([{"L": "low", "M": "mid"}[letter] for letter in script])
        found.append(hypergradient(built, "top"))
    for one in found[1:]:
        assert_close(one, found[0], 1e-12)


class Noisy(nn.Module):
    """Batch normalisation, dropout, and a running mean that the output depends on."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x))
        with torch.no_grad():
            self.seen.mul_(0.5).add_(hidden.mean(dim=0) + 0.1)
        return self.last(torch.dropout(torch.tanh(hidden), 0.4, train=True) * (1 + self.seen.clone()))


def noisy_loss(batch: tuple[Tensor, Tensor, Tensor], low: View, up: View) -> Tensor:
    group, x, y = batch
    weight = torch.sigmoid(up.parameters["weights"][group])
    return (weight * torch.nn.functional.softplus(-y * low(x).squeeze(-1))).mean()


def noisy_up(low: View, up: View) -> Tensor:
    size = sum((leaf.square().sum() for leaf in low.parameters.values()), torch.zeros(()))
    return size + up.parameters["weights"].square().sum()


def noisy(method: Method) -> Built:
    torch.manual_seed(0)
    toy = Lower(PLAIN)
    low = Part(
        name="low",
        module=Noisy().double(),
        loss=noisy_loss,
        optimizer=CASES["SGD,momentum=0.8"].make,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8),
        batches=[toy.batch(index) for index in range(20)],
    )
    up = Part(name="up", module=upper_module(), loss=noisy_up)
    return assemble([low, up], [edge("up", "low", method)])


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_masks_buffers_and_schedules_are_those_of_the_updates(steps: int) -> None:
    found = []
    for remat in (False, True):
        torch.manual_seed(1)
        built = noisy(unrolled(steps, remat=remat))
        built.follow(["low", "low", "up", "low", "low", "low", "low"])
        found.append((hypergradient(built), [leaf.clone() for leaf in built.everything()]))
    assert_same(found[1][1], found[0][1])
    assert_close(found[1][0], found[0][0], 1e-12)


def test_looking_back_changes_nothing() -> None:
    built = noisy(unrolled(4, remat=True))
    built.follow(["low"] * 6)
    before = picture(built)
    first = hypergradient(built)
    assert_untouched(before, picture(built))
    assert_same([hypergradient(built), built.executor.step("up").gradient[0][:0]], [first, first[:0]])


def test_values_that_someone_else_has_moved_are_kept() -> None:
    """A callback projects the parameters and resets a buffer between two updates, in the middle of a block."""
    found = []
    for remat in (False, True):
        torch.manual_seed(1)
        built = noisy(unrolled(9, remat=remat))
        built.follow(["low"] * 4)
        module = cast("Noisy", built.program["low"].module)
        with torch.no_grad():
            module.first.weight.clamp_(-0.3, 0.3)
            module.seen.zero_()
        built.follow(["low"] * 4)
        found.append(hypergradient(built))
    assert_close(found[1], found[0], 1e-12)


def test_two_uppers_may_look_back_in_different_ways() -> None:
    """One keeps graphs, the other records, of the same updates."""

    def built(first: Method, second: Method) -> Built:
        toy = Lower(CASES["Adam"])

        def loss(batch: tuple[Tensor, Tensor, Tensor], low: View, up: View, other: View) -> Tensor:
            own = noisy_loss(batch, low, up)
            return own + (other.parameters["weights"].exp().mean()) * low.parameters["0.weight"].square().sum()

        def other_loss(low: View, other: View) -> Tensor:
            return noisy_up(low, other)

        low = Part(
            name="low",
            module=toy.low,
            loss=loss,
            optimizer=toy.case.make,
            batches=[toy.batch(index) for index in range(9)],
        )
        up = Part(name="up", module=upper_module(), loss=noisy_up)
        other = Part(name="other", module=upper_module(), loss=other_loss)
        result = assemble([low, up, other], [edge("up", "low", first), edge("other", "low", second)])
        result.follow(["low"] * 7)
        return result

    tape, record = unrolled(5, remat=False), unrolled(3, remat=True)
    plain = built(tape, unrolled(3, remat=False))
    mixed = built(tape, record)
    for name in ("up", "other"):
        assert_close(hypergradient(mixed, name), hypergradient(plain, name), 1e-12)


@pytest.mark.parametrize("steps", [1, 2, 9, 16, 30])
def test_kept_states_are_as_many_as_the_root_of_the_updates(steps: int) -> None:
    built = Lower(PLAIN).live(steps, unrolled(steps, remat=True))
    built.follow(["low"] * (2 * steps + 3))
    records = built.program["low"].history.records
    states = sum(record.start is not None for record in records)
    assert len(records) >= steps
    assert states <= math.isqrt(steps) + 2
    assert not built.program["low"].tape


@pytest.mark.parametrize("method", [unrolled(4, remat=True), preset("forward_mode")], ids=lambda one: one.solver.name)
def test_another_executor_of_the_same_program_goes_on(method: Method) -> None:
    """As a profiled run makes one after a plain run."""
    built = Lower(CASES["Adam"]).live(4, method)
    built.follow(["low"] * 3)
    first = hypergradient(built)
    other = Executor(built.plan, built.program)
    assert_same([flat(other.hypergradient("up").gradient)], [first])
    other.step("low")
    assert not torch.equal(flat(other.hypergradient("up").gradient), first)
