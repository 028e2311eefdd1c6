"""Second derivatives of a loss's graph along a direction, as functions that a compiler can follow to their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from betty.backends.torch.duals import dual_level, duals, tangent
from betty.backends.torch.tree import Tree

if TYPE_CHECKING:
    from betty.backends.torch.objective import Objective


@dataclass(frozen=True, eq=False)
class Ask:
    """The product ``d/d by <grad_at L, v>``.

    Args:
        kind: ``forward`` or ``reverse``, the mode of the outer derivative.
        at: Live parameters that the direction moves.
        by: Live parameters that the product is by.
    """

    kind: str
    at: Tree
    by: Tree


@dataclass(frozen=True, eq=False)
class Found:
    """A loss as a graph, and the tensors that it reads at present."""

    graph: GraphModule
    inputs: tuple[Any, ...]

    def places(self, tree: Tree) -> tuple[int | None, ...]:
        """Which input each leaf is; ``None`` for leaves that the loss does not read."""
        known = {id(one): index for index, one in enumerate(self.inputs)}
        return tuple(known.get(id(leaf)) for leaf in tree)


@dataclass(frozen=True, eq=False)
class Form:
    """A product as one of a graph's inputs.

    Args:
        graph: The loss.
        inputs: How many it has; directions follow them.
        moved: Which of them the direction moves.
        wanted: Which of them the product is by.
    """

    graph: GraphModule
    inputs: int
    moved: tuple[int, ...]
    wanted: tuple[int, ...]

    def split(self, tensors: Sequence[Any]) -> tuple[list[Any], Sequence[Tensor]]:
        """Constants in the place of all inputs, and the direction."""
        inputs = [one.detach() if isinstance(one, Tensor) else one for one in tensors[: self.inputs]]
        return inputs, tensors[self.inputs :]

    def loss(self, inputs: Sequence[Any], objective: Objective) -> Tensor:
        """Evaluate the graph.

        Raises:
            NotImplementedError: It has results beside the loss, such as what a module keeps for its next call.
        """
        with objective.casting(), _Dropout() if objective.device.type == "cpu" else nullcontext():
            found = self.graph(*inputs)
        if len(found) != 1:
            raise NotImplementedError("evaluating the loss has results beside it")
        loss: Tensor = found[0]
        return loss


class _Dropout(TorchFunctionMode):
    """Dropout as a CPU computes it eagerly, the same draws included.

    A compiler would take an operation of its own for it, whose gradient has no tangent.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_dropout if func is F.dropout else func)(*args, **(kwargs or {}))


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if inplace or not training or not 0.0 < p < 1.0:
        return F.dropout(input, p, training, inplace)
    return input * torch.empty_like(input).bernoulli_(1 - p).div_(1 - p)


Derive = Callable[..., Tree]


def derivations(kind: str, form: Form, objective: Objective) -> tuple[Derive, ...]:
    """Ways to compute a product, the better first."""
    if kind == "reverse":
        return (reverse_over_reverse,)
    short_way = objective.smooth_tangents and not set(form.moved) & set(form.wanted)
    return (reverse_over_forward, forward_over_reverse) if short_way else (forward_over_reverse,)


def reverse_over_forward(form: Form, objective: Objective, *tensors: Any) -> Tree:
    """The gradient by what is wanted of the loss's tangent."""
    inputs, direction = form.split(tensors)
    by = _leaves(form, inputs)
    with torch.enable_grad(), dual_level(switches=objective.switches), objective.differentiable():
        _move(form, inputs, direction)
        return _gradient(tangent(form.loss(inputs, objective)), by)


def forward_over_reverse(form: Form, objective: Objective, *tensors: Any) -> Tree:
    """The tangent of the gradient by what is wanted."""
    inputs, direction = form.split(tensors)
    with torch.enable_grad(), dual_level(switches=objective.switches), objective.differentiable():
        _move(form, inputs, direction)
        by = [inputs[place].requires_grad_() for place in form.wanted]
        return tuple(tangent(part).detach() for part in _gradient(form.loss(inputs, objective), by))


def reverse_over_reverse(form: Form, objective: Objective, *tensors: Any) -> Tree:
    """The gradient by what is wanted of ``<grad L, v>``."""
    inputs, direction = form.split(tensors)
    by = _leaves(form, inputs)
    at = [inputs[place].requires_grad_() for place in form.moved]
    with torch.enable_grad(), objective.differentiable():
        loss = form.loss(inputs, objective)
        if not loss.requires_grad:
            return tuple(torch.zeros_like(leaf) for leaf in by)
        gradient = torch.autograd.grad(loss, at, create_graph=True, allow_unused=True, materialize_grads=True)
        # Parts of a gradient that do not depend on anything (a linear loss) have no graph and no derivative.
        pairs = [(part, along) for part, along in zip(gradient, direction, strict=True) if part.requires_grad]
        if not pairs:
            return tuple(torch.zeros_like(leaf) for leaf in by)
        parts, along = zip(*pairs, strict=True)
        return torch.autograd.grad(parts, by, along, allow_unused=True, materialize_grads=True)


def _leaves(form: Form, inputs: list[Any]) -> list[Tensor]:
    return [inputs[place].requires_grad_() for place in form.wanted]


def _move(form: Form, inputs: list[Any], direction: Sequence[Tensor]) -> None:
    for place, moving in zip(form.moved, duals([inputs[place] for place in form.moved], direction), strict=True):
        inputs[place] = moving


def _gradient(scalar: Tensor, by: Sequence[Tensor]) -> Tree:
    if not scalar.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in by)
    return torch.autograd.grad(scalar, by, allow_unused=True, materialize_grads=True)
