"""Hypergradients of quadratic programs by dense linear algebra, written from the formulas and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from betty.ir.methods import Method
from tests.support.quadratics import QuadraticProgram

Points = Mapping[str, Tensor]
InverseOf = Callable[[str, str], Tensor]
"""The matrix that stands for a problem's inverse Hessian, by the problem and by who reads its solution."""


def stationary(program: QuadraticProgram, points: Points, target: str = "top") -> dict[str, Tensor]:
    """``points``, with all problems below ``target`` at their joint solution, for the rest as it stands."""
    below = program.below(target)
    rows = []
    for name in below:
        fixed = [c @ points[y] for y, c in program.problems[name].couplings.items() if y not in below]
        rows.append(-program.problems[name].linear - sum(fixed, torch.zeros_like(program.problems[name].linear)))
    solved = torch.linalg.solve(_system(program, below), torch.cat(rows))
    return {**points, **dict(zip(below, solved.split([len(row) for row in rows]), strict=True))}


def _system(program: QuadraticProgram, below: list[str]) -> Tensor:
    """The matrix of all stationarity conditions together: own curvatures and couplings, block by block."""
    blocks = []
    for row in below:
        problem = program.problems[row]
        empty = [problem.linear.new_zeros(len(problem.linear), len(program.problems[y].linear)) for y in below]
        found = [problem.curvature if y == row else problem.couplings.get(y, empty[i]) for i, y in enumerate(below)]
        blocks.append(torch.cat(found, dim=1))
    return torch.cat(blocks)


def exact_hypergradient(program: QuadraticProgram, points: Points, target: str = "top") -> Tensor:
    """Implicit differentiation of the joint linear system of everything below the target."""
    below, goal = program.below(target), program.problems[target]
    acts, seeds = [], []
    for name in below:
        size, problem = len(program.problems[name].linear), program.problems[name]
        acts.append(problem.couplings.get(target, torch.zeros(size, len(goal.linear), dtype=torch.float64)))
        seeds.append(goal.partial(name, points) if name in goal.couplings else torch.zeros(size, dtype=torch.float64))
    moved = torch.linalg.solve(_system(program, below), torch.cat(acts))
    return goal.partial(target, points) - moved.T @ torch.cat(seeds)


def answered_hypergradient(
    program: QuadraticProgram, points: Points, inverse_of: InverseOf, target: str = "top"
) -> Tensor:
    """The sum over all paths of readers, each problem answering with the matrix that stands for its inverse Hessian.

    Only for programs where no two problems below the target read each other.
    """
    below, goal = set(program.below(target)), program.problems[target]

    def moves(name: str, reader: str) -> Tensor:
        """How the solution of ``name``, as ``reader`` reads it, moves with the target."""
        problem = program.problems[name]
        total = torch.zeros(len(problem.linear), len(goal.linear), dtype=torch.float64)
        for read, coupling in problem.couplings.items():
            if read == target:
                total = total + coupling
            elif read in below:
                total = total + coupling @ moves(read, name)
        return -inverse_of(name, reader) @ total

    result = goal.partial(target, points)
    for name in goal.couplings:
        if name in below:
            result = result + moves(name, target).T @ goal.partial(name, points)
    return result


def nested_hypergradient(program: QuadraticProgram, points: Points) -> Tensor:
    """Three levels that all read each other: low, mid and top, as nested functions of what stands above them.

    ``low`` answers to mid and top; ``mid`` answers to top by its own curvature, through what it reads of top and
    through low's answer to top while mid itself stands still.
    """
    low, mid, top = (program.problems[name] for name in ("low", "mid", "top"))
    none = torch.zeros(len(low.linear), len(top.linear), dtype=torch.float64)
    low_by_mid = -torch.linalg.solve(low.curvature, low.couplings["mid"])
    low_by_top = -torch.linalg.solve(low.curvature, low.couplings.get("top", none))
    pull = mid.couplings["top"] + mid.couplings["low"] @ low_by_top
    mid_by_top = -torch.linalg.solve(mid.curvature, pull)
    result = top.partial("top", points) + mid_by_top.T @ top.partial("mid", points)
    if "low" in top.couplings:
        result = result + (low_by_top + low_by_mid @ mid_by_top).T @ top.partial("low", points)
    return result


def stands_for(method: Method, curvature: Tensor) -> Tensor:
    """The matrix that a method puts in the place of the inverse of ``curvature``, where it runs to its end."""
    identity = torch.eye(len(curvature), dtype=curvature.dtype)
    if method.solver.name in ("identity", "sama"):  # the optimiser is plain gradient descent
        return identity
    if method.solver.name == "nystrom":
        return torch.linalg.inv(curvature + float(method.solver["damping"] or 0) * identity)
    if method.solver.name == "neumann":
        alpha, count = float(method.solver["alpha"] or 0), int(method.solver["iterations"] or 0)
        damped = identity - alpha * curvature
        return alpha * sum((torch.linalg.matrix_power(damped, k) for k in range(count + 1)), 0 * identity)
    return torch.linalg.inv(curvature)
