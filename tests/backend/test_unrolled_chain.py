"""Three levels, all unrolled: the tapes together against central differences of re-running the joint history."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.support.compare import assert_close, assert_same
from tests.support.optimizers import OPTIMIZER_CASES
from tests.support.towers import TOP_SIZE, Tower, unrolled
from tests.support.unrolling import central_difference, hypergradient

CASES = {str(case): case for case in OPTIMIZER_CASES}
PLAIN, HEAVY = CASES["SGD"], CASES["SGD,momentum=0.8,nesterov=True"]
ADAM, ADAMW = CASES["Adam"], CASES["AdamW,weight_decay=0.1"]
TOWERS = {
    "SGD under SGD": Tower(PLAIN, PLAIN),
    "momentum under Adam": Tower(HEAVY, ADAM),
    "Adam under momentum": Tower(ADAM, HEAVY),
    "AdamW under AdamW": Tower(ADAMW, ADAMW),
    "read twice": Tower(HEAVY, ADAM, skip=True),
    "accumulated": Tower(HEAVY, PLAIN, skip=True, accumulation=2),
}
SCRIPTS = {
    "one after the other": "LLLLMMMM",
    "three to one": "LLLMLLLMLLLM",
    "two mids at the same low": "LLMMLLMM",
    "low last": "LMLMLL",
}
# Each tower and script with the whole history, and with one of the pairs of shorter windows (of low, of mid).
SHORT = [(3, 20), (20, 2), (2, 2)]
HISTORIES = [
    (tower, script, window)
    for index, (tower, script) in enumerate(itertools.product(sorted(TOWERS), sorted(SCRIPTS)))
    for window in ((20, 20), SHORT[index % len(SHORT)])
]
NAMES = {"L": "low", "M": "mid"}


def script_of(text: str) -> list[str]:
    return [NAMES[letter] for letter in text]


@pytest.mark.parametrize(("tower", "script", "window"), HISTORIES)
def test_equals_central_differences(tower: str, script: str, window: tuple[int, int]) -> None:
    """Windows longer than the history, and shorter ones, behind which the history counts as constant."""
    toy, steps = TOWERS[tower], script_of(SCRIPTS[script])
    built = toy.live(unrolled(window[0]), unrolled(window[1]))
    built.follow(steps)
    windows = dict(zip(("low", "mid"), window, strict=True))
    exact = central_difference(lambda change: toy.loss_after(steps, change, windows), TOP_SIZE)
    assert_close(hypergradient(built, "top"), exact, 1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_by_default_the_window_reaches_back_to_the_last_step_of_the_target(accumulation: int) -> None:
    """Three updates of low to one of mid, two of mid to one of top: six and two."""
    toy = Tower(HEAVY, ADAM, accumulation=accumulation)
    built = toy.live(unrolled(), unrolled(), unroll=(3, 2))
    steps = script_of(("L" * 3 * accumulation + "M") * 4)
    built.follow(steps)
    assert [len(built.program[name].tape) for name in ("low", "mid")] == [6, 2]
    exact = central_difference(lambda change: toy.loss_after(steps, change, {"low": 6, "mid": 2}), TOP_SIZE)
    assert_close(hypergradient(built, "top"), exact, 1e-6)


def test_what_mid_has_read_before_the_window_of_low_counts_as_constant() -> None:
    """Nothing of low's kept updates has reached mid, so nothing comes back."""
    toy = Tower(PLAIN, PLAIN)
    built = toy.live(unrolled(2), unrolled(1))
    built.follow(script_of("LLMLL"))
    direct = 0.2 * built.program.parameters("top")[0].detach()
    assert_same([hypergradient(built, "top")], [direct])


def test_the_hypergradient_may_be_taken_again() -> None:
    built = TOWERS["read twice"].live(unrolled(4), unrolled(4))
    built.follow(script_of("LLMLLM"))
    first = hypergradient(built, "top")
    assert_same([hypergradient(built, "top"), built.executor.step("top").gradient[0]], [first, first])
    assert bool(torch.isfinite(first).all())
