"""Looking back on the updates of a problem that has lowers of its own: their responses were part of its gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from betty.backends.torch.trajectory.replay import player
from betty.ir.methods import Method, preset
from betty.ir.records import Flow
from tests.support.compare import assert_close, assert_same, flat
from tests.support.programs import Built
from tests.support.quadratics import QuadraticProgram, build, generate, random_points

LINKS = (("mid", "low", Flow.BOTH), ("top", "mid", Flow.BOTH))
SCRIPT = ["low", "low", "mid"] * 7


def built(program: QuadraticProgram, below: Method, above: Method) -> Built:
    methods = {("mid", "low"): below, ("top", "mid"): above}
    found = build(program, methods, random_points(program, seed=3))
    found.follow(SCRIPT)
    return found


@pytest.mark.parametrize("below", ["cg", "dense", "identity", "unrolled", "penalty"])
@settings(max_examples=10)
@given(seed=st.integers(0, 999), steps=st.integers(1, 7))
def test_updates_made_again_have_the_responses_that_they_had(below: str, seed: int, steps: int) -> None:
    program = generate(LINKS, sizes=(3, 2), seed=seed)
    plain, again = (
        built(program, preset(below), preset("unrolled", {"steps": steps, "remat": remat})) for remat in (False, True)
    )
    assert_same(again.program.parameters("mid"), plain.program.parameters("mid"))
    found, expected = (flat(one.executor.hypergradient("top").gradient) for one in (again, plain))
    assert_close(found, expected, 1e-12)


def test_evolution_strategies_play_the_updates_that_were_made() -> None:
    """Played again with nothing moved, the updates lead to where they have led."""
    program = generate(LINKS, sizes=(3, 2), seed=1)
    live = built(program, preset("dense"), preset("evolution_strategies", {"steps": 5}))
    play = player(live.program["mid"], 5)
    assert play is not None
    torch.testing.assert_close(play({}), live.program.parameters("mid"), rtol=1e-12, atol=1e-12)
