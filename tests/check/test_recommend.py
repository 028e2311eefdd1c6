"""The rule of recommendations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from betty.backends.torch.check import Measurement, Row
from betty.backends.torch.check.recommend import recommend
from betty.ir.methods import preset

NAMES = ("cg", "minres", "unrolled", "neumann")


def made(name: str, error: float, steps: float, cosine: float = 1.0, **more: object) -> Row:
    one = Measurement(iteration=1, cosine=cosine, error=error, steps=steps, seconds=steps, bytes=1)
    return replace(Row(method=preset(name), name=name, measurements=(one,)), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        ([made("cg", 1e-9, 20), made("minres", 0.04, 5), made("unrolled", 0.3, 1)], "minres"),
        ([made("cg", 1e-9, 5.5), made("minres", 0.04, 5)], "cg"),  # alike in cost: the more exact
        ([made("cg", 1e-9, 5.0), made("minres", 0.04, 5.5, chosen=True)], "minres"),  # alike in cost: no change
        ([made("cg", 1e-9, 5.0), made("minres", 0.04, 9, chosen=True)], "cg"),
        ([made("cg", 3.0, 9, 0.99), made("minres", 0.6, 2, 0.90), made("unrolled", 5.0, 4, 0.98)], "unrolled"),
        ([made("cg", math.inf, 1, math.nan), made("minres", 4.0, 30, 0.2)], "minres"),
        ([made("cg", 0.0, 1, reason="cannot"), made("minres", 0.01, 30)], "minres"),
    ],
    ids=["cheapest within", "alike", "kept", "worth a change", "by direction", "diverged", "cannot run"],
)
def test_rule(rows: list[Row], taken: str) -> None:
    found = recommend(rows, 0.05)
    assert found is not None and found.name == taken
    assert found.change == (not next(row for row in rows if row.name == taken).chosen)
    assert f"{next(row.steps for row in rows if row.name == taken):g} steps of the lower" in found.reason


def test_the_reason_says_what_the_choice_was_among() -> None:
    within = recommend([made("cg", 1e-9, 20), made("minres", 0.04, 5)], 0.05)
    beyond = recommend([made("cg", 2.0, 20, 0.5), made("minres", 3.0, 5, 0.4)], 0.05)
    assert within is not None and "the cheapest of 2; cg, the most exact, takes 20" in within.reason
    assert beyond is not None and beyond.name == "cg"
    assert "no method is within the tolerance; the best direction has cosine 0.500" in beyond.reason


def test_nothing_to_recommend() -> None:
    assert recommend([], 0.05) is None
    assert recommend([made("cg", math.inf, 1)], 0.05) is None
    assert recommend([Row(method=preset("cg"), name="cg", reason="cannot")], 0.05) is None
