"""Derivatives that are carried along against those of the tapes, and against central differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch.errors import RunError
from betty.backends.torch.objective import Evaluation, ParameterModule, View
from betty.ir.methods import Method, preset
from tests.backend.test_remat import noisy
from tests.support.compare import assert_close, assert_same, assert_untouched, flat, picture
from tests.support.optimizers import MATRIX_CASES, OPTIMIZER_CASES, OptimizerCase
from tests.support.programs import Built, Part, assemble, edge
from tests.support.quadratics import LAYOUTS, QuadraticProgram, build, generate, programs, random_points
from tests.support.towers import TOP_SIZE, Tower
from tests.support.unrolling import GROUPS, Lower, central_difference, hypergradient, low_loss, up_loss, upper_module

PLAIN = OPTIMIZER_CASES[0]
CASES = {str(case): case for case in OPTIMIZER_CASES}
RESET, FOREVER = (preset("forward_mode", {"reset": reset}) for reset in (True, False))


def unrolled(steps: int) -> Method:
    return preset("unrolled", {"steps": steps})


@pytest.mark.parametrize("case", OPTIMIZER_CASES, ids=str)
def test_every_optimiser_gives_the_derivative_of_its_tape(case: OptimizerCase) -> None:
    found = []
    for method in (unrolled(4), RESET):
        built = Lower(case, accumulation=1, clipping=0.5).live(4, method)
        built.follow(["low"] * 4)
        found.append((hypergradient(built), built.program.parameters("low")))
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-10, atol=1e-12)
    assert_close(found[1][0], found[0][0], 1e-8)


@settings(max_examples=8)
@given(
    case=st.sampled_from(OPTIMIZER_CASES),
    before=st.integers(1, 2),
    count=st.integers(1, 3),
    accumulation=st.integers(1, 2),
    clipping=st.sampled_from([None, 0.3]),
)
def test_reset_forgets_what_lies_before_the_last_step_of_the_target(
    case: OptimizerCase, before: int, count: int, accumulation: int, clipping: float | None
) -> None:
    found = []
    for method in (unrolled(count), RESET):
        built = Lower(case, accumulation, clipping).live(count, method)
        _hold_still(built)
        built.follow([*["low"] * before * accumulation, "up", *["low"] * count * accumulation])
        found.append(hypergradient(built))
    assert_close(found[1], found[0], 1e-8)


def _hold_still(built: Built) -> None:
    """Let the upper step at a rate of zero."""
    for group in built.optimizer("up").param_groups:
        group["lr"] = 0.0


@pytest.mark.parametrize("case", [CASES["SGD,momentum=0.8"], CASES["Adam"]], ids=str)
def test_without_reset_all_updates_count(case: OptimizerCase) -> None:
    """The upper steps at a rate of zero: its parameters stay, so that what is carried along is exact."""
    toy = Lower(case)
    start, built = toy.twin(), toy.live(3, FOREVER)
    _hold_still(built)
    built.follow(["low", "low", "up", "low", "up", "low", "low"])
    exact = central_difference(lambda change: start.loss_after(5, change), GROUPS + 1)
    assert_close(hypergradient(built), exact, 1e-6)


def test_without_reset_the_past_counts_as_it_was_when_the_upper_has_moved() -> None:
    """The recursion of Franceschi et al., written out for a quadratic under gradient descent."""
    program = generate(LAYOUTS["two levels"], [3, 2], seed=4)
    built = build(program, FOREVER, random_points(program, 0))
    built.follow(["low", "low", "top", "low", "top"])
    low, rate = program.problems["low"], program.step_size
    carried = torch.zeros_like(low.couplings["top"])
    for _ in range(3):
        carried = carried - rate * (low.curvature @ carried + low.couplings["top"])
    points = {
        name: torch.cat([leaf.detach().reshape(-1) for leaf in problem.parameters])
        for name, problem in built.program.problems.items()
    }
    top = program.problems["top"]
    exact = top.partial("top", points) + carried.T @ top.partial("low", points)
    assert_close(hypergradient(built, "top"), exact, 1e-10)


@settings(max_examples=10)
@given(
    program=programs(st.sampled_from(["two levels", "two lowers", "two uppers"]).map(LAYOUTS.__getitem__)),
    seed=st.integers(0, 99),
)
def test_quadratics(program: QuadraticProgram, seed: int) -> None:
    found = []
    for method in (unrolled(6), RESET):
        built = build(program, method, random_points(program, seed))
        built.follow([name for name in program.below("top") for _ in range(6)])
        found.append(hypergradient(built, "top"))
    assert_close(found[1], found[0], 1e-10)


@pytest.mark.parametrize("case", MATRIX_CASES[:2], ids=str)
def test_optimisers_of_matrices(case: OptimizerCase) -> None:
    def loss(batch: Tensor, low: View, up: View) -> Tensor:
        return (torch.tanh(batch @ low.parameters["w"]) * up.parameters["x"]).square().mean()

    def goal(low: View, up: View) -> Tensor:
        return low.parameters["w"].sin().sum() * up.parameters["x"].sum()

    found = []
    for method in (unrolled(3), RESET):
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(3, 2, generator=generator, dtype=torch.float64)
        batches = [torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(3)]
        low = Part(name="low", module=ParameterModule({"w": start}), loss=loss, optimizer=case.make, batches=batches)
        up = Part(name="up", module=ParameterModule({"x": torch.tensor([0.5, -0.7], dtype=torch.float64)}), loss=goal)
        built = assemble([low, up], [edge("up", "low", method)])
        built.follow(["low"] * 3)
        found.append(hypergradient(built))
    assert_close(found[1], found[0], 1e-8)


@pytest.mark.parametrize("script", ["LLLMMM", "LLLLMM"])
def test_three_levels_in_which_mid_reads_low_as_it_stands(script: str) -> None:
    """All updates of low come first: nothing that was carried along is read at an earlier version."""
    toy = Tower(CASES["SGD,momentum=0.8"], CASES["Adam"], skip=True)
    found = []
    for low, mid in ((unrolled(9), unrolled(9)), (RESET, unrolled(9)), (unrolled(9), RESET), (RESET, RESET)):
        built = toy.live(low, mid)
        built.follow([{"L": "low", "M": "mid"}[letter] for letter in script])
        found.append(hypergradient(built, "top"))
    assert found[0].shape == (TOP_SIZE,)
    for one in found[1:]:
        assert_close(one, found[0], 1e-8)


def test_memory_does_not_grow() -> None:
    built = Lower(PLAIN).live(1, RESET)
    sizes = []
    for _ in range(4):
        built.follow(["low"])
        columns = built.program["low"].tangents["up"].columns
        sizes.append((len(columns), sum(leaf.numel() for column in columns for leaf in column.parameters)))
    assert len(set(sizes)) == 1
    assert sizes[0][0] == GROUPS + 1
    assert not built.program["low"].tape


def test_looking_changes_nothing() -> None:
    built = Lower(CASES["Adam"]).live(1, RESET)
    built.follow(["low"] * 3)
    before = picture(built)
    carried = [column.parameters for column in built.program["low"].tangents["up"].columns]
    first = hypergradient(built)
    assert_untouched(before, picture(built))
    assert all(a is b.parameters for a, b in zip(carried, built.program["low"].tangents["up"].columns, strict=True))
    assert_same([hypergradient(built)], [first])


def test_a_micro_batch_that_fails_is_not_carried() -> None:
    """The step that is cut short is taken again; what it has added to the gradient's derivative is gone."""
    toy = Lower(PLAIN, accumulation=2)
    found = []
    for broken in (False, True):
        low = Part(
            name="low",
            module=toy.twin().low,
            loss=low_loss,
            batches=[toy.batch(0)],
            optimizer=PLAIN.make,
            accumulation=2,
        )
        built = assemble([low, Part(name="up", module=upper_module(), loss=up_loss)], [edge("up", "low", RESET)])
        built.follow(["low"] * 3)
        real = built.program["low"].objective.standing_in
        if broken:
            built.program["low"].objective.standing_in = _failing  # type: ignore[method-assign]
            with pytest.raises(ZeroDivisionError):
                built.executor.step("low")
            built.program["low"].objective.standing_in = real  # type: ignore[method-assign]
        built.follow(["low"])
        found.append(hypergradient(built))
    assert_close(found[1], found[0], 1e-12)


def _failing(*_: object, **__: object) -> Evaluation:
    """The evaluation that comes after what is carried along has been computed."""
    raise ZeroDivisionError


def test_a_lower_that_has_not_moved_yet() -> None:
    built = Lower(PLAIN).live(1, RESET)
    with pytest.raises(RunError, match="'low' has made no update yet"):
        hypergradient(built)


@pytest.mark.parametrize("count", [1, 4])
def test_masks_buffers_and_schedules_are_those_of_the_updates(count: int) -> None:
    """The output depends on a buffer that is written under ``torch.no_grad``: constant in forward mode too."""
    found = []
    for method in (unrolled(count), RESET):
        torch.manual_seed(1)
        built = noisy(method)
        built.follow(["low"] * count)
        found.append((hypergradient(built), flat(built.program.parameters("low"))))
    assert_close(found[1][1], found[0][1], 1e-12)
    assert_close(found[1][0], found[0][0], 1e-9)
