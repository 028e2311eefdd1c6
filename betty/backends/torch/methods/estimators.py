"""What an estimator is: a response that needs no second derivative of the lower's loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from betty.backends.torch.methods.base import Lower, Status
from betty.backends.torch.tree import Tree


@dataclass(frozen=True, eq=False)
class Occasion:
    """The step of the target in which an estimator is asked.

    Args:
        loss: The target's loss at this step, detached.
        memory: What the estimator has left here at the target's earlier steps: tensors, tuples of tensors and
            numbers. What it leaves is part of checkpoints.
        seed: Of random numbers; another at every micro-batch of the target.
        steps: Updates of the target so far.
        again: Makes the lower's last updates again with its uppers moved by the trees given; the lower's parameters
            then. ``None`` where updates are not kept.
    """

    loss: Tensor
    memory: dict[str, Any]
    seed: int = 0
    steps: int = 0
    again: Callable[[Mapping[str, Tree]], Tree] | None = None


@dataclass(frozen=True)
class Answer:
    """What each problem that the lower's loss reads gains, how the estimate ended, and statistics."""

    gains: Mapping[str, Tree]
    status: Status = Status.OK
    stats: Mapping[str, float | Tensor] = field(default_factory=dict)


class Estimator(ABC):
    """An estimate of the response ``(dtheta*/dx)^T v`` from losses and first derivatives alone."""

    @abstractmethod
    def answer(self, lower: Lower, v: Tree, occasion: Occasion) -> Answer:
        """What every problem in ``lower.reads`` gains from the adjoint ``v`` of the lower.

        Evaluations are pure: parameters, buffers and random states are as before.
        """
