"""Weight decay of the lower's optimiser is part of what the lower descends, and so of its response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from betty.backends.torch.adaptation import decay_of
from tests.backend.test_quadratics import STEPS, found_in, points_of, scatter
from tests.support.compare import assert_close
from tests.support.dense import exact_hypergradient, stationary
from tests.support.methods import BIASED, METHOD_CASES, MethodCase
from tests.support.quadratics import QuadraticProgram, any_program, build, random_points


def decayed(program: QuadraticProgram, rate: float) -> QuadraticProgram:
    """The program whose losses below the top have the decay written out."""
    problems = {
        name: replace(problem, curvature=problem.curvature + rate * torch.eye(len(problem.linear), dtype=torch.float64))
        for name, problem in program.problems.items()
        if name != "top"
    }
    return replace(program, problems={**program.problems, **problems})


@pytest.mark.parametrize("case", [case for case in METHOD_CASES if case.solver not in BIASED], ids=str)
@settings(max_examples=5)
@given(program=any_program, rate=st.floats(0.1, 0.8))
def test_the_response_is_that_of_the_decayed_loss(case: MethodCase, program: QuadraticProgram, rate: float) -> None:
    whole = decayed(program, rate)
    method = case.method(replace(program, condition=program.condition + rate), STEPS)
    points = stationary(whole, random_points(whole, seed=0))

    def descend(parameters: object) -> Optimizer:
        return SGD(parameters, lr=program.step_size / (1 + rate), weight_decay=rate)  # type: ignore[arg-type]

    built = build(program, method, points, optimizer=descend)
    for name in program.below("top"):
        if built.program[name].tape.maxlen or built.program[name].history.length or built.program[name].tangents:
            scatter(built, name)
            built.follow([name] * (STEPS))
    assert_close(found_in(built), exact_hypergradient(whole, points_of(built)), 1e-5)


def _groups(parameters: list[nn.Parameter]) -> list[dict[str, object]]:
    return [{"params": parameters[:1], "weight_decay": 0.2}, {"params": parameters[1:]}]


CASES: dict[str, tuple[Callable[[list[nn.Parameter]], Optimizer], tuple[float, ...]]] = {
    "none": (lambda p: SGD(p, lr=0.1), ()),
    "SGD": (lambda p: SGD(p, lr=0.1, weight_decay=0.2), (0.2, 0.2)),
    "of some parameters": (
        lambda p: SGD(_groups(p), lr=0.1),
        (0.2, 0.0),
    ),
    "of what is held alone": (lambda p: Adam(p[1:], weight_decay=0.2), (0.0, 0.2)),
    "RMSprop": (lambda p: RMSprop(p, weight_decay=0.3), (0.3, 0.3)),
    "maximising": (lambda p: SGD(p, lr=0.1, weight_decay=0.2, maximize=True), (-0.2, -0.2)),
    "decoupled": (lambda p: AdamW(p, weight_decay=0.2), ()),
}


@pytest.mark.parametrize("case", CASES)
def test_decay_by_parameter(case: str) -> None:
    make, expected = CASES[case]
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(()))]
    assert decay_of(make(parameters), tuple(parameters)) == expected
