"""Every optimiser, unrolled until it has settled, reaches the exact hypergradient of chains and diamonds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Adam, AdamW

from betty.ir.methods import preset
from tests.support.compare import assert_close, flat
from tests.support.dense import exact_hypergradient
from tests.support.programs import MakeOptimizer
from tests.support.quadratics import LAYOUTS, QuadraticProgram, build, programs, random_points

STEPS = 90
# Adam with a large eps descends at the rate lr / eps once the gradients are small; with a small one it never settles.
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "SGD": lambda parameters: SGD(parameters, lr=0.4),
    "SGD, momentum": lambda parameters: SGD(parameters, lr=0.2, momentum=0.5),
    "SGD, dampened": lambda parameters: SGD(parameters, lr=0.3, momentum=0.5, dampening=0.2),
    "SGD, nesterov": lambda parameters: SGD(parameters, lr=0.2, momentum=0.5, nesterov=True),
    "Adam": lambda parameters: Adam(parameters, lr=1.0, betas=(0.3, 0.9), eps=2.0),
    "Adam, amsgrad": lambda parameters: Adam(parameters, lr=1.0, betas=(0.3, 0.9), eps=2.0, amsgrad=True),
    "AdamW": lambda parameters: AdamW(parameters, lr=1.0, betas=(0.3, 0.9), eps=2.0, weight_decay=0.0),
}
shapes = st.sampled_from(["two levels", "chain", "chain with a skip", "diamond"]).map(LAYOUTS.__getitem__)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@settings(max_examples=3)
@given(program=programs(shapes), seed=st.integers(0, 99))
def test_reaches_the_exact_hypergradient(optimizer: str, program: QuadraticProgram, seed: int) -> None:
    built = build(program, preset("unrolled", {"steps": STEPS}), random_points(program, seed), OPTIMIZERS[optimizer])
    for name in program.below("top"):
        built.follow([name] * STEPS)
    points = {name: flat(problem.parameters) for name, problem in built.program.problems.items()}
    found = flat(built.executor.hypergradient("top").gradient)
    assert_close(found, exact_hypergradient(program, points), 1e-6)
