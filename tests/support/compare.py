"""Comparisons of trees of tensors, and pictures of everything that an evaluation must leave alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.support.programs import Built


def flat(tree: Sequence[Tensor]) -> Tensor:
    """All leaves in one vector, detached."""
    return torch.cat([leaf.detach().reshape(-1) for leaf in tree])


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of ``exact``."""
    return float((found - exact).norm() / exact.norm())


def assert_close(found: Tensor, exact: Tensor, tolerance: float) -> None:
    """The relative error is at most ``tolerance``, and there is something to be wrong about."""
    assert found.shape == exact.shape
    assert exact.norm() > 1e-12, "the reference is zero: nothing is compared"
    assert relative_error(found, exact) <= tolerance


def assert_same(left: Sequence[Tensor], right: Sequence[Tensor]) -> None:
    """Bit for bit the same tensors."""
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one, other)


def picture(built: Built) -> dict[str, Any]:
    """Parameters, buffers, optimiser states, counters, kept samples, tapes and random states."""
    problems = built.program.problems
    return {
        "tensors": [tensor.detach().clone() for tensor in built.everything()],
        "identities": [id(tensor) for tensor in built.everything()],
        "gradients": [parameter.grad for problem in problems.values() for parameter in problem.parameters],
        "states": [_states(problem.optimizer) for problem in problems.values()],
        "counters": [(problem.count, problem.version) for problem in problems.values()],
        "memories": [(list(problem.kept), list(problem.tape), problem.open_segment) for problem in problems.values()],
        "records": [[*problem.history.records, problem.history.open] for problem in problems.values()],
        "carried": [[one.columns for one in problem.tangents.values()] for problem in problems.values()],
        "epochs": [problem.stream.epoch if problem.stream else None for problem in problems.values()],
        "python": random.getstate(),
        "numpy": np.random.get_state()[1],  # type: ignore[index]
        "torch": torch.get_rng_state(),
    }


def _states(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    if optimizer is None:
        return []
    return [value.clone() for state in optimizer.state.values() for value in state.values() if value is not None]


def assert_untouched(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Two pictures agree bit for bit."""
    for key, value in before.items():
        assert _equal(value, after[key]), f"{key} changed"


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return bool(np.array_equal(left, right))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left is right or left == right)
