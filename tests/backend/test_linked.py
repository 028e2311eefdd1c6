"""Episodes whose updates are linked and swept at once, against the same updates swept one by one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from betty.backends.torch.objective import ParameterModule, View
from betty.ir.methods import Method, preset
from tests.support.compare import assert_close, assert_same
from tests.support.optimizers import OPTIMIZER_CASES, OptimizerCase
from tests.support.programs import Built, Part, assemble, edge
from tests.support.unrolling import GROUPS, D, examples, hypergradient, logistic, network

CASES = {str(case): case for case in OPTIMIZER_CASES}
ADAM, MOMENTUM = CASES["Adam"], CASES["SGD,momentum=0.8"]
UNROLL = 4


def low_loss(batch: tuple[Tensor, Tensor, Tensor], low: View, up: View) -> Tensor:
    group, x, y = batch
    return (torch.sigmoid(up.parameters["weights"][group]) * logistic(low, x, y)).mean()


def judge(low: View) -> Tensor:
    x, y = examples(seed=99, count=6)[1:]
    return logistic(low, x, y).mean()


def unrolled(steps: int | None = None, *, remat: bool = False) -> Method:
    return preset("unrolled", {"remat": remat} | ({} if steps is None else {"steps": steps}))


def episodes(
    case: OptimizerCase,
    *,
    one_by_one: bool,
    windows: tuple[int | None, int | None] = (None, None),
    accumulation: int = 1,
    module: nn.Module | None = None,
) -> Built:
    """A lower that begins anew at the meta problem's point and reads weights; each target has a window of its own."""
    low = Part(
        name="low",
        module=module or network(seed=3),
        loss=low_loss,
        optimizer=case.make,
        batches=[examples(seed=index, count=8) for index in range(40)],
        unroll=UNROLL,
        accumulation=accumulation,
        starts_from="meta",
    )
    up = Part(name="up", module=ParameterModule({"weights": torch.linspace(-1, 1, GROUPS, dtype=D)}), loss=judge)
    start = network(seed=5)
    meta = Part(name="meta", module=start, loss=judge)
    edges = [edge("meta", "low", unrolled(windows[0])), edge("up", "low", unrolled(windows[1]))]
    built = assemble([low, up, meta], edges)
    built.program["low"].objective.reruns |= one_by_one
    return built


def both(case: OptimizerCase, script: Sequence[str], **options: object) -> tuple[Built, Built]:
    """The same history, linked and not."""
    found = tuple(episodes(case, one_by_one=one, **options) for one in (False, True))  # type: ignore[arg-type]
    for built in found:
        built.follow(script)
    return found[0], found[1]


def links(built: Built) -> list[bool]:
    return [segment.linked for segment in built.program["low"].tape]


def assert_equal_hypergradients(linked: Built, apart: Built) -> None:
    assert not any(links(apart))
    assert_same(linked.program.parameters("low"), apart.program.parameters("low"))
    for target in ("meta", "up"):
        assert float(hypergradient(apart, target).norm()) > 1e-4
        assert_close(hypergradient(linked, target), hypergradient(apart, target), 1e-12)


@pytest.mark.parametrize("case", OPTIMIZER_CASES, ids=str)
def test_every_optimiser(case: OptimizerCase) -> None:
    linked, apart = both(case, ["low"] * UNROLL)
    assert links(linked) == [False, True, True, True]
    assert_equal_hypergradients(linked, apart)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_episodes_that_follow_one_another(accumulation: int) -> None:
    script = ["low"] * (UNROLL * accumulation)
    linked, apart = both(ADAM, [*script, "up", "meta", *script, "meta", *script], accumulation=accumulation)
    assert links(linked) == [False, True, True, True]
    assert_equal_hypergradients(linked, apart)


@pytest.mark.parametrize("script", ["LLULLM", "LLUULMLLU", "LULULULUMLUL"])
def test_targets_that_step_at_different_times(script: str) -> None:
    """What the weights were at the time of each update, and at each version that another target has read."""
    names = {"L": "low", "U": "up", "M": "meta"}
    linked, apart = both(MOMENTUM, [names[letter] for letter in script])
    assert any(links(linked))
    assert_same(linked.program.parameters("up"), apart.program.parameters("up"))
    assert_close(hypergradient(linked, "up"), hypergradient(apart, "up"), 1e-12)


@pytest.mark.parametrize("windows", [(None, 2), (None, 1), (2, 4)], ids=str)
def test_a_window_that_begins_amid_linked_updates(windows: tuple[int | None, int | None]) -> None:
    """Earlier updates have read the same weights; they are not in the shorter window."""
    linked, apart = both(MOMENTUM, ["low"] * UNROLL, windows=windows)
    assert links(linked) == [False, True, True, True]
    assert_close(hypergradient(linked, "up"), hypergradient(apart, "up"), 1e-12)
    if windows[0] is None:
        assert_close(hypergradient(linked, "meta"), hypergradient(apart, "meta"), 1e-12)
    else:  # the episode's start lies outside the window
        assert float(hypergradient(linked, "meta").norm()) == float(hypergradient(apart, "meta").norm()) == 0


def test_the_hypergradient_may_be_taken_again_and_again() -> None:
    built = episodes(ADAM, one_by_one=False)
    built.follow(["low"] * UNROLL)
    first = hypergradient(built, "meta")
    assert_same([hypergradient(built, "meta")], [first])
    built.follow(["meta"])
    assert float(hypergradient(built, "meta").norm()) > 0


# -- what is not linked


@pytest.mark.parametrize("what", ["parameters", "state", "values elsewhere"])
def test_updates_before_and_after_an_edit(what: str) -> None:
    found = [episodes(ADAM, one_by_one=one) for one in (False, True)]
    for built in found:
        built.follow(["low"] * 2)
        edit(built, what)
        built.follow(["low"] * 2)
    assert links(found[0]) == [False, True, False, True]
    assert_equal_hypergradients(found[0], found[1])


def edit(built: Built, what: str) -> None:
    """What a callback may do between two updates."""
    low = built.program["low"]
    with torch.no_grad():
        if what == "parameters":
            low.parameters[0].clamp_(-0.1, 0.1)
        elif what == "values elsewhere":
            low.parameters[0].data = low.parameters[0].data / 2
        else:
            assert low.optimizer is not None
            low.optimizer.state[low.parameters[1]]["exp_avg"] /= 2


def test_an_episode_that_is_longer_than_the_tape() -> None:
    """Linked segments would outlive the tape that has dropped them."""
    linked, apart = both(MOMENTUM, ["low"] * 6, windows=(3, 3))
    assert links(linked) == [False, False, False]
    assert_close(hypergradient(linked, "up"), hypergradient(apart, "up"), 1e-12)
    linked.follow(["meta", "low", "low"])
    assert links(linked) == [False, False]


def test_a_problem_that_never_begins_anew() -> None:
    low = Part(name="low", module=network(seed=3), loss=low_loss, batches=[examples(0, 8)], unroll=3)
    up = Part(name="up", module=ParameterModule({"weights": torch.zeros(GROUPS, dtype=D)}), loss=judge)
    built = assemble([low, up], [edge("up", "low", unrolled())])
    built.follow(["low"] * 3)
    assert links(built) == [False] * 3


class Checkpointed(nn.Module):
    """Evaluates its layers again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network(seed=3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.layers, x, use_reentrant=False)
        return out


def test_modules_that_are_evaluated_again() -> None:
    low = Part(
        name="low",
        module=Checkpointed(),
        loss=low_loss,
        batches=[examples(seed=index, count=8) for index in range(9)],
        unroll=3,
    )
    plain = Part(**{**vars(low), "module": network(seed=3)})
    found = []
    for part in (low, plain):
        up = Part(name="up", module=ParameterModule({"weights": torch.zeros(GROUPS, dtype=D)}), loss=judge)
        meta_module: nn.Module = Checkpointed() if part is low else network(seed=3)
        meta = Part(name="meta", module=meta_module, loss=judge)
        anew = Part(**{**vars(part), "starts_from": "meta"})
        built = assemble([anew, up, meta], [edge("meta", "low", unrolled()), edge("up", "low", unrolled())])
        built.follow(["low"] * 3)
        found.append(built)
    assert links(found[0]) == [False] * 3
    assert links(found[1]) == [False, True, True]
    for target in ("up", "meta"):
        assert_close(hypergradient(found[0], target), hypergradient(found[1], target), 1e-12)


def test_an_update_after_everything_was_forgotten() -> None:
    """As after a checkpoint is restored."""
    found = [episodes(MOMENTUM, one_by_one=one) for one in (False, True)]
    for built in found:
        built.follow(["low"] * 2)
        built.program["low"].forget()
        built.follow(["low"] * 2)
    assert links(found[0]) == [False, True]
    assert_close(hypergradient(found[0], "up"), hypergradient(found[1], "up"), 1e-12)


def test_an_update_that_fails_leaves_the_chain_as_it_was() -> None:
    found = [episodes(ADAM, one_by_one=one) for one in (False, True)]
    for built in found:
        built.follow(["low"] * 2)
        low = built.program["low"]
        loss, low.objective.loss = low.objective.loss, _broken
        with pytest.raises(ZeroDivisionError):
            built.follow(["low"])
        low.objective.loss = loss
        built.follow(["low"] * 2)
    assert links(found[0]) == [False, True, True, True]
    assert_equal_hypergradients(found[0], found[1])


def _broken(**parts: object) -> Tensor:
    raise ZeroDivisionError
