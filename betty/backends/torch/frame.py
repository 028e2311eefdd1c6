"""What the instructions of one step pass on to one another, and what a step gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from betty.backends.torch.objective import Evaluation, Sample
from betty.backends.torch.program import LiveProblem
from betty.backends.torch.swap import BufferValues
from betty.backends.torch.tape import Adjoint
from betty.backends.torch.tree import Tree, detach, zeros_like
from betty.ir.plan import Respond

Metrics = dict[str, Tensor | float]


@dataclass(frozen=True, eq=False)
class Clue:
    """What a step has found on its way to the gradient, to name what is not finite.

    Args:
        at: Index of the instruction.
        what: It is, in a few words.
        tree: Its values.
        lower: The problem that has responded, where it is a response.
        failed: Whether a solve has said itself that it met what is not finite.
    """

    at: int
    what: str
    tree: Tree
    lower: str = ""
    failed: bool = False


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
    at: int = 0
    """Index of the instruction at hand."""
    differentiated: int = 0
    """Index of the instruction that has evaluated the loss."""
    clues: list[Clue] = field(default_factory=list)
    failed: bool = False
    """Whether a solve met what is not finite."""
    silent: bool = False
    """Whether a lower could not answer, as none of its updates was made."""
    memories: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What responses leave for the problem's next step, by slot, if this one counts."""
    buffers: BufferValues | None = None
    """Copies of the buffers before the step, where it may be left out."""
    dry: bool = False
    """Leave counters, kept samples, tapes and parameters as they are."""

    def differentiated_by(self, name: str, tree: Tree) -> None:
        """Note the gradient of the loss, by another problem where there is a name."""
        what = f"the gradient of the loss of {self.problem.name!r}" + (f" by {name!r}" if name else "")
        self.clues.append(Clue(self.at, what, tree))

    def responded(self, item: Respond, tree: Tree, *, failed: bool = False) -> None:
        """Note a response."""
        what = f"the response of {item.problem!r} by {item.method.brief()}"
        self.clues.append(Clue(self.at, what, tree, item.problem, failed))
        self.failed |= failed


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
