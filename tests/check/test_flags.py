"""Every flag: raised where the flagged thing happens, with the right number, and silent where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from betty.ir.methods import preset
from tests.check.support import F64, Bowl, bowl, flag, flagged, still, two_level

X = torch.tensor([0.3, -0.7], dtype=F64)


def at(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def solution(lower: Bowl) -> Tensor:
    return -torch.linalg.solve(lower.curvature, lower.coupling @ X)


def test_negative_curvature_gives_the_eigenvalue_and_a_damping_that_mends_it() -> None:
    found = flag(flagged(two_level(bowl(3.0, 1.0, -0.5), at(1.0, 2.0, 3.0), X)), "negative_curvature")
    assert found is not None
    assert found.value == pytest.approx(-0.5, rel=1e-6)
    assert "damping of 0.5" in found.advice


@pytest.mark.parametrize("eigenvalues", [(3.0, 1.0, 0.5), (3.0, 1.0, 0.0)], ids=["definite", "singular"])
def test_no_negative_curvature(eigenvalues: tuple[float, ...]) -> None:
    assert flag(flagged(two_level(bowl(*eigenvalues), at(1.0, 2.0, 3.0), X)), "negative_curvature") is None


def test_divergent_neumann_gives_the_largest_step() -> None:
    found = flag(flagged(two_level(bowl(400.0, 1.0), at(1.0, 2.0), X)), "divergent_neumann")
    assert found is not None
    assert found.value == pytest.approx(2 / 400, rel=1e-6)
    assert "the default alpha = 0.01" in found.message and "below 0.005" in found.advice


def test_neumann_of_the_edge_itself() -> None:
    lower, theta = bowl(3.0, 1.0), at(1.0, 2.0)
    wild = flagged(two_level(lower, theta, X, preset("neumann", {"alpha": 0.7})))
    tame = flagged(two_level(lower, theta, X, preset("neumann", {"alpha": 0.6})))
    raised = flag(wild, "divergent_neumann")
    assert raised is not None and "with alpha = 0.7" in raised.message
    assert flag(tame, "divergent_neumann") is None


def test_convergent_neumann() -> None:
    assert flag(flagged(two_level(bowl(100.0, 1.0), at(1.0, 2.0), X)), "divergent_neumann") is None


def test_unconverged_lower_gives_the_change_of_the_hypergradient() -> None:
    lower, theta = bowl(3.0, 1.0), at(1.5, -2.0)
    found = flag(flagged(two_level(lower, theta, X)), "unconverged_lower")
    inverse = torch.linalg.inv(lower.curvature)
    here, there = (-lower.coupling.T @ inverse @ (point - 1) for point in (theta, solution(lower)))
    assert found is not None
    assert found.value == pytest.approx(float((there - here).norm() / there.norm()), rel=1e-8)
    assert "not at its solution" in found.message


def test_converged_lower() -> None:
    lower = bowl(3.0, 1.0)
    assert flag(flagged(two_level(lower, solution(lower), X)), "unconverged_lower") is None


def cubic(hold: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(theta: Tensor, x: Tensor) -> Tensor:
        return 0.5 * theta.square().sum() + 0.4 * (hold(theta).square() * theta).sum() + (theta * x).sum()

    return loss


def test_detached() -> None:
    found = flag(flagged(two_level(cubic(lambda theta: theta.detach()), at(1.0, 2.0), X)), "detached")
    # Along the adjoint theta - 1 = (0, 1): H = I where the detach is heeded, I + 0.8 diag(theta) where it is not.
    assert found is not None and found.value == pytest.approx(1.6 / 2.6, rel=1e-4)
    assert "detach()" in found.message


class Once(torch.autograd.Function):
    """A square whose gradient torch takes for a constant, without a word."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        return 2 * value * gradient


def test_a_gradient_that_is_taken_for_a_constant() -> None:
    def loss(theta: Tensor, x: Tensor) -> Tensor:
        value: Tensor = Once.apply(theta).sum() + theta.square().sum() + (theta * x).sum()  # type: ignore[no-untyped-call]
        return value

    found = flag(flagged(two_level(loss, at(1.0, 2.0), X)), "detached")
    assert found is not None and found.value == pytest.approx(0.5, rel=1e-4)  # H = 4 I, of which 2 I is seen


def test_not_detached() -> None:
    found = flagged(two_level(cubic(lambda theta: theta), at(1.0, 2.0), X))
    assert flag(found, "detached") is None and flag(found, "kink") is None


def kinked(*places: float) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(theta: Tensor, x: Tensor) -> Tensor:
        bends = sum(torch.relu(theta - place).sum() for place in places)
        return 0.5 * theta.square().sum() + (theta * x).sum() + bends

    return loss


@pytest.mark.parametrize("places", [(2.003,), (2.0005, 1.996), (2.00002,)], ids=["far", "two", "near"])
def test_kink_within_the_step(places: tuple[float, ...]) -> None:
    found = flagged(two_level(kinked(*places), at(2.0, 2.0), X))
    raised = flag(found, "kink")
    assert raised is not None and raised.value > 0.5
    assert "epsilon = 0.01" in raised.message and "exact product" in raised.advice
    assert flag(found, "detached") is None


def test_kink_outside_the_step() -> None:
    assert flag(flagged(two_level(kinked(2.5), at(2.0, 2.0), X)), "kink") is None


def test_kink_depends_on_the_epsilon_of_the_spec() -> None:
    close = preset("finite_difference", {"epsilon": 1e-4})
    assert flag(flagged(two_level(kinked(2.003), at(2.0, 2.0), X, close)), "kink") is None


def test_curved_loss_is_no_kink() -> None:
    """A large truncation error that shrinks as the square of epsilon."""

    def loss(theta: Tensor, x: Tensor) -> Tensor:
        return (8 * theta).cosh().sum() / 64 + (theta * x).sum()

    found = flagged(two_level(loss, at(0.2, 0.1), X, preset("finite_difference", {"epsilon": 0.1})))
    assert flag(found, "kink") is None and flag(found, "detached") is None


def test_a_trajectory_edge_is_flagged_as_well() -> None:
    found = flagged(two_level(bowl(3.0, -1.0), at(1.0, 2.0), X, preset("unrolled"), still))
    assert {one.code for one in found.flags} >= {"negative_curvature", "unconverged_lower"}
    assert "unrolled" in found.reference
