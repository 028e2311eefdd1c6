"""Meta-learned initialisations against closed forms and central differences; implicit MAML against its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from betty.backends.torch.objective import ParameterModule, View
from betty.ir.diagnostics import GraphError
from betty.ir.methods import Method, preset
from tests.support.compare import assert_close, assert_same, assert_untouched, flat, picture
from tests.support.optimizers import OPTIMIZER_CASES, OptimizerCase
from tests.support.programs import Built, Part, assemble, edge
from tests.support.unrolling import D, central_difference, examples, hypergradient, logistic, move, network

CASES = {str(case): case for case in OPTIMIZER_CASES}
METHODS = {
    "unrolled": preset("unrolled"),
    "remat": preset("unrolled", {"remat": True}),
    "forward_mode": preset("forward_mode"),
}


def definite(size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A curvature with eigenvalues between 0.5 and 2, a start, and a direction that the meta problem likes."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=D))[0]
    values = 0.5 + 1.5 * torch.rand(size, generator=generator, dtype=D)
    start, liked = torch.randn(2, size, generator=generator, dtype=D)
    return basis @ torch.diag(values) @ basis.T, start, liked


def quadratic(
    size: int, seed: int, method: Method, unroll: int, rate: float, tasks: Sequence[Tensor], proximal: float = 0.0
) -> Built:
    """A lower with 0.5 (w - task)' A (w - task) that begins anew at the meta problem's point, task after task."""
    curvature, start, liked = definite(size, seed)

    def loss(batch: Tensor, low: View) -> Tensor:
        away = low.parameters["w"] - batch
        return 0.5 * away @ curvature @ away

    def near(batch: Tensor, low: View, meta: View) -> Tensor:
        return loss(batch, low) + 0.5 * proximal * (low.parameters["w"] - meta.parameters["w"]).square().sum()

    def goal(low: View) -> Tensor:
        return liked @ low.parameters["w"] + low.parameters["w"].square().sum()

    low = Part(
        name="low",
        module=ParameterModule({"w": torch.zeros(size, dtype=D)}),
        loss=near if proximal else loss,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate),
        batches=[task for task in tasks for _ in range(unroll)],
        unroll=unroll,
        starts_from="meta",
    )
    meta = Part(name="meta", module=ParameterModule({"w": start.clone()}), loss=goal, accumulation=max(1, len(tasks)))
    return assemble([low, meta], [edge("meta", "low", method)])


@pytest.mark.parametrize("method", sorted(METHODS))
@settings(max_examples=6)
@given(
    size=st.integers(1, 4),
    seed=st.integers(0, 99),
    unroll=st.integers(1, 7),
    rate=st.floats(0.05, 0.4),
    count=st.integers(1, 3),
)
def test_tasks_in_closed_form(method: str, size: int, seed: int, unroll: int, rate: float, count: int) -> None:
    """(I - rate A)^unroll takes the adjoint back to the start; micro-batches of the meta problem are tasks."""
    curvature, start, liked = definite(size, seed)
    tasks = list(torch.randn(count, size, generator=torch.Generator().manual_seed(seed + 1), dtype=D))
    built = quadratic(size, seed, METHODS[method], unroll, rate, tasks)
    shrink = torch.linalg.matrix_power(torch.eye(size, dtype=D) - rate * curvature, unroll)
    for task in tasks:
        built.follow(["low"] * unroll)
        adapted = task + shrink @ (start - task)
        assert_close(flat(built.program.parameters("low")), adapted, 1e-10)
        assert_close(hypergradient(built, "meta"), shrink @ (liked + 2 * adapted), 1e-9)
        built.follow(["meta"])
    assert built.program["meta"].version == 1


@pytest.mark.parametrize("method", ["unrolled", "remat"])
def test_a_window_that_ends_before_the_start_does_not_reach_it(method: str) -> None:
    """Truncated to the last two of five updates, the start counts as constant."""
    options = {"truncate": 2, "remat": method == "remat"}
    built = quadratic(3, 0, preset("unrolled", options), 5, 0.2, [torch.ones(3, dtype=D)])
    built.follow(["low"] * 5)
    assert_same([hypergradient(built, "meta")], [torch.zeros(3, dtype=D)])
    whole = quadratic(3, 0, preset("unrolled", {**options, "truncate": 5}), 5, 0.2, [torch.ones(3, dtype=D)])
    whole.follow(["low"] * 5)
    assert float(hypergradient(whole, "meta").norm()) > 0.1


def low_loss(batch: tuple[Tensor, Tensor, Tensor], low: View) -> Tensor:
    return logistic(low, *batch[1:]).mean()


def goal_of(low: View) -> Tensor:
    return logistic(low, *examples(seed=99, count=6)[1:]).mean()


def networks(case: OptimizerCase, method: Method, change: Tensor | None = None) -> Built:
    meta = network(seed=5)
    if change is not None:
        move(meta, change)
    low = Part(
        name="low",
        module=network(seed=3),
        loss=low_loss,
        optimizer=case.make,
        batches=[examples(seed=index, count=8) for index in range(30)],
        unroll=3,
        starts_from="meta",
    )
    return assemble([low, Part(name="meta", module=meta, loss=goal_of)], [edge("meta", "low", method)])


SIZE = sum(leaf.numel() for leaf in network(seed=5).parameters())


@pytest.mark.parametrize("optimizer", ["SGD", "SGD,momentum=0.8,nesterov=True", "Adam", "RMSprop,momentum=0.6"])
def test_networks_against_central_differences(optimizer: str) -> None:
    case = CASES[optimizer]

    def adapted(change: Tensor) -> float:
        built = networks(case, METHODS["unrolled"], change)
        built.follow(["low"] * 3)
        return float(built.executor.hypergradient("meta").loss)

    exact = central_difference(adapted, SIZE)
    for method in METHODS.values():
        built = networks(case, method)
        built.follow(["low"] * 3)
        assert_close(hypergradient(built, "meta"), exact, 1e-5)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_episode_begins_anew(method: str) -> None:
    """Two episodes, the second from the moved start, with an optimiser that has seen nothing."""
    case = CASES["Adam"]
    built = networks(case, METHODS[method])
    built.follow(["low", "low", "low", "meta"])
    start = [leaf.detach().clone() for leaf in built.program.parameters("meta")]
    adapted = flat(built.program.parameters("low"))
    built.follow(["low"])
    assert float(next(iter(built.optimizer("low").state.values()))["step"]) == 1
    assert not torch.equal(flat(built.program.parameters("low")), adapted)
    twin = network(seed=0)
    with torch.no_grad():
        for leaf, value in zip(twin.parameters(), start, strict=True):
            leaf.copy_(value)
    optimizer = case.make(twin.parameters())
    low_loss(examples(seed=3, count=8), View("low", twin)).backward()
    optimizer.step()
    torch.testing.assert_close(flat(built.program.parameters("low")), flat(list(twin.parameters())))


def test_looking_changes_nothing() -> None:
    built = networks(CASES["Adam"], METHODS["unrolled"])
    built.follow(["low", "low", "low", "meta", "low"])
    before = picture(built)
    first = hypergradient(built, "meta")
    assert_untouched(before, picture(built))
    assert_same([hypergradient(built, "meta")], [first])


def test_a_start_that_the_loss_reads_as_well() -> None:
    """Unrolled through a proximal lower: the start counts once as the start, and once in every loss."""

    def value(change: Tensor) -> float:
        built = quadratic(2, 3, METHODS["unrolled"], 4, 0.1, [torch.ones(2, dtype=D)], proximal=0.7)
        move(built.program["meta"].module, change)
        built.follow(["low"] * 4)
        return float(built.executor.hypergradient("meta").loss)

    exact = central_difference(value, 2)
    for method in METHODS.values():
        built = quadratic(2, 3, method, 4, 0.1, [torch.ones(2, dtype=D)], proximal=0.7)
        built.follow(["low"] * 4)
        assert_close(hypergradient(built, "meta"), exact, 1e-8)


@settings(max_examples=8)
@given(size=st.integers(1, 4), seed=st.integers(0, 99), proximal=st.floats(0.5, 4.0))
def test_implicit_maml_in_closed_form(size: int, seed: int, proximal: float) -> None:
    """A proximal lower solved to its end: d w / d meta = proximal (A + proximal I)^-1, whatever the way there."""
    curvature, start, liked = definite(size, seed)
    task = torch.linspace(-1, 1, size, dtype=D)
    method = preset("cg", {"iterations": 20, "tolerance": 1e-12})
    built = quadratic(size, seed, method, 150, 0.15, [task], proximal)
    built.follow(["low"] * 150)
    total = curvature + proximal * torch.eye(size, dtype=D)
    solution = torch.linalg.solve(total, curvature @ task + proximal * start)
    assert_close(flat(built.program.parameters("low")), solution, 1e-8)
    exact = proximal * torch.linalg.solve(total, liked + 2 * solution)
    assert_close(hypergradient(built, "meta"), exact, 1e-7)


def test_an_implicit_method_that_cannot_see_the_start_is_refused() -> None:
    with pytest.raises(GraphError, match="'cg' looks at the loss of 'low', which does not read 'meta'"):
        quadratic(2, 0, preset("cg"), 3, 0.1, [])


def test_evolution_strategies_see_the_start() -> None:
    curvature, start, liked = definite(2, 4)
    task = torch.ones(2, dtype=D)
    method = preset("evolution_strategies", {"samples": 2000, "sigma": 0.1})
    built = quadratic(2, 4, method, 2, 0.2, [task])
    built.follow(["low"] * 2)
    shrink = torch.linalg.matrix_power(torch.eye(2, dtype=D) - 0.2 * curvature, 2)
    exact = shrink @ (liked + 2 * (task + shrink @ (start - task)))
    assert_close(hypergradient(built, "meta"), exact, 0.1)


class Normed(nn.Module):
    """Batch normalisation, whose buffers stay the lower's own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(3, dtype=D), nn.Linear(3, 1, dtype=D)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(x))


def test_buffers_are_not_part_of_the_start() -> None:
    torch.manual_seed(0)
    low = Part(
        name="low",
        module=Normed(),
        loss=low_loss,
        batches=[examples(seed=index, count=8) for index in range(9)],
        unroll=2,
        starts_from="meta",
    )
    built = assemble([low, Part(name="meta", module=Normed(), loss=goal_of)], [edge("meta", "low", METHODS["remat"])])
    built.follow(["low", "low", "meta", "low"])
    norm = cast("nn.BatchNorm1d", built.program["low"].module.norm)
    assert norm.num_batches_tracked is not None and int(norm.num_batches_tracked) >= 3
    assert bool(torch.isfinite(hypergradient(built, "meta")).all())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_episode_whose_first_update_fails_begins_anew_again(method: str) -> None:
    found = []
    for broken in (False, True):
        built = quadratic(3, 1, METHODS[method], 2, 0.2, [torch.ones(3, dtype=D), torch.zeros(3, dtype=D)])
        built.follow(["low", "low", "meta"])
        if broken:
            stream = built.program["low"].stream
            assert stream is not None
            batch = stream.peek()
            stream._peeked.append("no batch")
            with pytest.raises(TypeError):
                built.executor.step("low")
            assert stream.peek() is batch
        built.follow(["low", "low"])
        found.append(hypergradient(built, "meta"))
    assert_same(found[1:], found[:1])
