"""Diamonds in a row, with counters of everything that an upper step costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

from betty.backends.torch.executor import Executor
from betty.backends.torch.objective import View
from betty.ir.methods import Method, preset
from betty.ir.plan import Step
from tests.support.programs import Built
from tests.support.quadratics import QuadraticProgram, build, diamonds, generate, random_points

METHODS: dict[str, Method] = {
    "identity + finite_difference": preset("finite_difference"),
    "cg(5) + reverse": preset("cg", {"iterations": 5, "tolerance": 0.0}),
}


def generate_diamonds(count: int, size: int = 8) -> QuadraticProgram:
    return generate(diamonds(count), sizes=(size,), seed=count)


def diamond_program(count: int, method: Method, size: int = 8) -> Built:
    """``count`` diamonds, every problem below the top stepped once."""
    program = generate_diamonds(count, size)
    built = build(program, method, random_points(program, seed=0))
    built.follow(program.below("top"))
    return built


def work(built: Built) -> Counter[str]:
    """Loss evaluations and instructions of one step of the top, by kind."""
    found: Counter[str] = Counter()

    def counted(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(**views: View) -> torch.Tensor:
            found["evaluations"] += 1
            return loss(**views)

        return call

    def around(step: Step, index: int, run: Callable[[], None]) -> None:
        found[step.instructions[index].op] += 1
        run()

    for problem in built.program.problems.values():
        problem.objective.loss = counted(problem.objective.loss)
    Executor(built.plan, built.program, around).step("top")
    return found
