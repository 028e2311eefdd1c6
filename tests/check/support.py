"""Two-level programs made by hand whose points and hypergradients are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from betty.backends.torch.check import Check, EdgeCheck, Flag, Request, Row, check_program
from betty.backends.torch.objective import ParameterModule
from betty.ir.methods import Method, preset
from tests.support.programs import Built, Part, assemble, edge

F64 = torch.float64


def still(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimiser that leaves everything where it is."""
    return torch.optim.SGD(parameters, lr=0.0)


def two_level(
    lower_loss: Callable[[Tensor, Tensor], Tensor],
    theta: Tensor,
    x: Tensor,
    method: Method | None = None,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = still,
    unroll: int = 1,
) -> Built:
    """``low`` minimises ``lower_loss(theta, x)``; ``top``, that holds ``x``, minimises ``1/2 |theta - 1|^2``."""

    def fit(low: Any, top: Any) -> Tensor:
        return lower_loss(low.parameters["theta"], top.parameters["x"])

    def judge(low: Any, top: Any) -> Tensor:
        return 0.5 * (low.parameters["theta"] - 1).square().sum() + 0.0 * top.parameters["x"].sum()

    parts = [
        Part(
            name="low", module=ParameterModule({"theta": theta.clone()}), loss=fit, optimizer=optimizer, unroll=unroll
        ),
        Part(name="top", module=ParameterModule({"x": x.clone()}), loss=judge, optimizer=still),
    ]
    return assemble(parts, [edge("top", "low", method or preset("finite_difference"))])


def checked(built: Built, **asked: Any) -> Check:
    return check_program(built.graph, built.program, Request(**{"iterations": 1, "points": 1, **asked}))


def flagged(built: Built) -> EdgeCheck:
    """The check of the only edge, its own method alone: enough for flags."""
    return only(checked(built, methods=()))


def only(check: Check) -> EdgeCheck:
    (found,) = check.edges
    return found


def row(found: EdgeCheck, name: str) -> Row:
    return next(one for one in found.rows if one.name == name)


def flag(found: EdgeCheck, code: str) -> Flag | None:
    return next((one for one in found.flags if one.code == code), None)


@dataclass(frozen=True)
class Bowl:
    """``1/2 theta' A theta + theta' C x``: the quadratic lower, with its matrices."""

    curvature: Tensor
    coupling: Tensor

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        curvature, coupling = self.curvature.to(theta.dtype), self.coupling.to(theta.dtype)
        return theta @ (0.5 * curvature @ theta + coupling @ x)


def bowl(*eigenvalues: float, upper: int = 2, seed: int = 0) -> Bowl:
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=F64))[0]
    coupling = torch.randn(size, upper, generator=generator, dtype=F64)
    return Bowl(basis @ torch.diag(torch.tensor(eigenvalues, dtype=F64)) @ basis.T, coupling)
