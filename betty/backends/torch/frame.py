"""What the instructions of one step pass on to one another, and what a step gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from betty.backends.torch.objective import Evaluation, Sample
from betty.backends.torch.program import LiveProblem
from betty.backends.torch.tape import Adjoint
from betty.backends.torch.tree import Tree, detach, zeros_like

Metrics = dict[str, Tensor | float]


@dataclass(eq=False)
class Frame:
    """What the instructions of one step pass on to one another."""

    problem: LiveProblem
    sample: Sample | None = None
    evaluation: Evaluation | None = None
    gradient: Tree = ()
    gains: Tree = ()
    """What responses have added to the gradient."""
    adjoints: dict[str, Adjoint] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    """Batches by problem, to use instead of the stream's and of the kept ones."""
    moved: dict[str, Tree] = field(default_factory=dict)
    """Where lowers are to be left, by name."""
    dry: bool = False
    """Leave counters, kept samples, tapes and parameters as they are."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one step gives: the loss and the metrics, still on the device, and the (hyper)gradient."""

    problem: str
    loss: Tensor
    metrics: Mapping[str, Tensor | float]
    found: Tree
    """The gradient, with its graph where updates are kept."""

    @property
    def gradient(self) -> Tree:
        return detach(self.found)


def whole(tree: Tree, parts: Sequence[Tensor | None]) -> Tree:
    """``parts`` of a gradient by ``tree``, with zeros for those that are missing."""
    pairs = zip(tree, parts, strict=True)
    return tuple([torch.zeros_like(leaf) if part is None else part for leaf, part in pairs])


def fill(frame: Frame) -> None:
    """A gradient of zeros, where neither the loss nor a response has given one."""
    frame.gradient = frame.gradient or zeros_like(frame.problem.parameters)
