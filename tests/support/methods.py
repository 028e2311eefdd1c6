"""The table of method cases: every contract test of methods runs every row."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from betty.ir.methods import INVERSES, PRODUCTS, UNPAIRED, Method, complete
from betty.ir.records import Value
from tests.support.quadratics import QuadraticProgram

EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}
DIFFERENCES = {torch.float64: 1e-7, torch.float32: 5e-2}
"""Quadratics have no truncation error; what is left is rounding over the length of the step."""


@dataclass(frozen=True)
class MethodCase:
    """One way to compute a response.

    Args:
        solver: An inverse or a trajectory method.
        product: A product; empty for a trajectory method.
        rtol: Relative error allowed on a quadratic program against what the method stands for, by dtype.
        options: Of either half, besides those that depend on the program.
    """

    solver: str
    product: str
    rtol: dict[torch.dtype, float]
    options: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        switched = (name for name, value in self.options if value is True)
        return "+".join(filter(None, (self.solver, self.product, *switched)))

    def method(self, program: QuadraticProgram, steps: int = 40) -> Method:
        """The method with enough terms, or enough updates, for the program's condition."""
        chosen: dict[str, Value] = dict(self.options)
        if self.solver in ("neumann", "penalty"):
            chosen |= {"iterations": steps, "alpha": program.step_size}
        if self.solver in UNPAIRED:
            options = {"steps": steps, **chosen}
            declared = UNPAIRED[self.solver]
            return Method(solver=complete(self.solver, declared, _of(declared.options, options)))
        solver = complete(self.solver, INVERSES[self.solver], _of(INVERSES[self.solver].options, chosen))
        product = complete(self.product, PRODUCTS[self.product], _of(PRODUCTS[self.product].options, chosen))
        return Method(solver=solver, product=product)


def _of(declared: object, chosen: dict[str, Value]) -> dict[str, Value]:
    return {key: value for key, value in chosen.items() if key in declared}  # type: ignore[operator]


STRICT = (("tolerance", 1e-12), ("iterations", 50))

LOOSE = (("tolerance", 1e-9), ("iterations", 50), ("epsilon", 1.0))
SKETCH = (("rank", 8), ("damping", 0.1))
WIDE = (("epsilon", 1.0),)

IMPLICIT_CASES = (
    MethodCase("identity", "reverse", EXACT),
    MethodCase("identity", "forward", EXACT),
    MethodCase("identity", "finite_difference", DIFFERENCES),
    MethodCase("sama", "reverse", EXACT),
    MethodCase("sama", "forward", EXACT),
    MethodCase("sama", "finite_difference", DIFFERENCES),
    MethodCase("neumann", "reverse", EXACT),
    MethodCase("neumann", "forward", EXACT),
    MethodCase("neumann", "finite_difference", DIFFERENCES, WIDE),
    MethodCase("cg", "reverse", EXACT, STRICT),
    MethodCase("cg", "forward", EXACT, STRICT),
    MethodCase("cg", "finite_difference", DIFFERENCES, LOOSE),
    MethodCase("minres", "reverse", EXACT, STRICT),
    MethodCase("minres", "forward", EXACT, STRICT),
    MethodCase("minres", "finite_difference", DIFFERENCES, LOOSE),
    MethodCase("nystrom", "reverse", EXACT, SKETCH),
    MethodCase("nystrom", "forward", EXACT, SKETCH),
    MethodCase("nystrom", "finite_difference", DIFFERENCES, SKETCH + WIDE),
    MethodCase("dense", "reverse", EXACT),
    MethodCase("dense", "forward", EXACT),
    MethodCase("dense", "finite_difference", DIFFERENCES, WIDE),
)
BIASED = ("identity", "sama", "nystrom")
"""Inverses that put another matrix in the place of the inverse Hessian, however long they run."""
TRAJECTORY_CASES = (
    MethodCase("unrolled", "", EXACT),
    MethodCase("unrolled", "", EXACT, (("remat", True),)),
    MethodCase("forward_mode", "", EXACT),
)
ESTIMATOR_CASES = (MethodCase("penalty", "", {torch.float64: 1e-8, torch.float32: 1e-2}),)
"""Estimators that do not draw; the others have tests of their means."""
METHOD_CASES = IMPLICIT_CASES + TRAJECTORY_CASES + ESTIMATOR_CASES
