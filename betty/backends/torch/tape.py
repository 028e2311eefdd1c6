r"""The trajectory of a problem's last updates, kept so that it can be differentiated in reverse.

One :class:`Segment` is one update, :math:`(\theta_{t+1}, s_{t+1}) = u(\theta_t, s_t, \nabla L(\theta_t, x_t))`, with
its graph and nothing beyond: parameters, optimiser state and what the loss reads enter as leaves. The reverse sweep
passes a cotangent from segment to segment. Memory is one graph of a gradient per update kept.

What other problems read of this one they read at a certain *version* (number of updates so far); an adjoint is
therefore kept by version, and enters the sweep where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from betty.backends.torch.tree import Tree, add, copy
from betty.backends.torch.updates import Group, Rule, State, clip

Edit = tuple[int, int]
"""How often a tensor was written to, and where its values are."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The parameters of another problem as an update's loss has read them."""

    problem: str
    version: int
    tensors: Tree


@dataclass(eq=False)
class Segment:
    """One differentiable update; ``after`` is empty until its micro-batches are complete."""

    version: int
    """Updates before this one."""
    before: Tree
    state_before: tuple[State, ...]
    readings: list[Reading] = field(default_factory=list)
    origin: Reading | None = None
    """Where the parameters of ``before`` were copied from, if this update begins anew from another problem's."""
    gradient: Tree | None = None
    after: Tree = ()
    state_after: tuple[State, ...] = ()
    written: tuple[Edit, ...] = ()
    """The live parameters as this update has left them."""

    @classmethod
    def open(cls, version: int, parameters: Tree, optimizer: Optimizer, last: Segment | None = None) -> Segment:
        """Begin an update at the live parameters and optimiser state, as leaves.

        Where nobody has touched the parameters since ``last``, the values it has computed are shared, else copied.
        """
        states = [optimizer.state.get(parameter, {}) for parameter in parameters]
        if last is not None and last.written == edits(parameters):
            return cls.at(version, last.after, states)
        return cls.at(version, copy(parameters), states)

    @classmethod
    def at(cls, version: int, parameters: Tree, states: Iterable[Mapping[str, Any]]) -> Segment:
        """Begin an update at any values, which are shared, and the optimiser state beside each, which is copied."""
        shared = tuple(leaf.detach().requires_grad_() for leaf in parameters)
        return cls(version, shared, tuple(_leaf_state(state) for state in states))

    def read(self, problem: str, version: int, tensors: Tree) -> None:
        """Note what a micro-batch reads; micro-batches that read the same tensors are one reading."""
        if all(known.tensors is not tensors for known in self.readings):
            self.readings.append(Reading(problem, version, tensors))

    def gain(self, gradient: Sequence[Tensor]) -> None:
        """Add the gradient of one more micro-batch, with its graph."""
        self.gradient = tuple(gradient) if self.gradient is None else add(self.gradient, gradient)

    def close(self, rule: Rule, groups: Sequence[Group | None], largest: float | None) -> None:
        """Apply the update, as part of the graph.

        Args:
            rule: The optimiser's update.
            groups: Hyperparameters of each parameter; those without any stay as they are.
            largest: Norm to which the gradient is clipped, or ``None``.
        """
        with torch.enable_grad():
            gradient = clip(self.gradient or (), largest)
            self.after, self.state_after = updated(rule, self.before, gradient, self.state_before, groups)
        self.gradient = None  # its graph lives on in what was computed from it, its values need not


def edits(parameters: Tree) -> tuple[Edit, ...]:
    """What changes when someone writes to parameters, or gives them other storage."""
    return tuple((parameter._version, parameter.data_ptr()) for parameter in parameters)


def _leaf_state(state: Mapping[str, Any]) -> State:
    return {key: _leaf(key, value) for key, value in state.items() if value is not None}


def _leaf(key: str, value: Tensor) -> Tensor:
    copied = value.detach().clone()
    return copied if key == "step" else copied.requires_grad_()


def updated(
    rule: Rule, parameters: Tree, gradient: Tree, states: Sequence[State], groups: Sequence[Group | None]
) -> tuple[Tree, tuple[State, ...]]:
    """Parameters and optimiser states after an update; as they were where ``groups`` has ``None``."""
    parts = zip(parameters, gradient, states, groups, strict=True)
    moved = [(leaf, state) if group is None else rule(leaf, part, state, group) for leaf, part, state, group in parts]
    return tuple(leaf for leaf, _ in moved), tuple(state for _, state in moved)


def holders(optimizer: Optimizer, parameters: Tree) -> tuple[Group | None, ...]:
    """The hyperparameters of each parameter as they stand; ``None`` for one that the optimiser does not hold."""
    found: dict[int, Group] = {}
    for group in optimizer.param_groups:
        values = {key: _still(value) for key, value in group.items() if key != "params"}
        found.update((id(parameter), values) for parameter in group["params"])
    return tuple(found.get(id(parameter)) for parameter in parameters)


def _still(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def write(
    optimizer: Optimizer, parameters: Tree, after: Tree, states: Sequence[State], groups: Sequence[Group | None]
) -> None:
    """Give the live parameters and the optimiser what an update has computed."""
    with torch.no_grad():
        torch._foreach_copy_(list(parameters), [leaf.detach() for leaf in after])
    for live, state, group in zip(parameters, states, groups, strict=True):
        if group is not None:
            # Copies: torch.optim may take over in place, and the graph still needs the values it has saved.
            optimizer.state[live] = {key: value.detach().clone() for key, value in state.items()}


class Adjoint:
    """The derivative of a target's loss by a problem's parameters, kept by the version that was read."""

    def __init__(self) -> None:
        self.by_version: dict[int, Tree] = {}

    def gain(self, version: int, tree: Tree) -> None:
        known = self.by_version.get(version)
        self.by_version[version] = tree if known is None else add(known, tree)

    def total(self) -> Tree | None:
        """The sum over versions, for responses that know the present alone; ``None`` if nothing arrived."""
        result: Tree | None = None
        for tree in self.by_version.values():
            result = tree if result is None else add(result, tree)
        return result


def _as_it_is(segment: Segment) -> AbstractContextManager[None]:
    del segment
    return nullcontext()


def sweep(
    segments: Iterable[Segment],
    adjoint: Adjoint,
    holding: Callable[[Segment], AbstractContextManager[None]] = _as_it_is,
    *,
    retain: bool = True,
) -> Iterator[tuple[Reading, Tree]]:
    """Pass ``adjoint`` back through ``segments`` (newest first); what each reading gains, newest first.

    Parameters and optimiser state at the start of the oldest segment count as constant, unless the parameters were
    copied from another problem's: that gains what arrives there. ``holding`` lets the modules hold what a segment was
    computed with, for code that activation checkpointing evaluates again. With ``retain`` the graphs stay as they
    are, for another sweep.
    """
    cotangent: dict[Key, Tensor] = {}
    for segment in segments:
        for index, tree in enumerate(adjoint.by_version.get(segment.version + 1, ())):
            known = cotangent.get((index, ""))
            cotangent[index, ""] = tree if known is None else known + tree
        outputs, inputs = _outputs(segment), _inputs(segment)
        reached = [key for key in outputs if key in cotangent]
        readings = [leaf for reading in segment.readings for leaf in reading.tensors]
        if not reached:
            continue
        with holding(segment):
            found = torch.autograd.grad(
                [outputs[key] for key in reached],
                [*inputs.values(), *readings],
                [cotangent[key] for key in reached],
                retain_graph=retain,
                allow_unused=True,
                materialize_grads=True,
            )
        cotangent = dict(zip(inputs, found, strict=False))
        parts = iter(found[len(inputs) :])
        for reading in segment.readings:
            yield reading, tuple(next(parts) for _ in reading.tensors)
        if segment.origin is not None:
            yield segment.origin, tuple(cotangent[index, ""] for index in range(len(segment.before)))
            return
        # Where segments are computed again, the next one needs the room that this one takes.
        del segment, outputs, inputs, found, parts


Key = tuple[int, str]
"""A parameter by position, and the name of its optimiser state (empty for the parameter itself)."""


def _outputs(segment: Segment) -> dict[Key, Tensor]:
    """What an update computes from something that gradients can be taken by."""
    found: dict[Key, Tensor] = {(index, ""): tensor for index, tensor in enumerate(segment.after)}
    for index, state in enumerate(segment.state_after):
        found.update(((index, name), value) for name, value in state.items())
    return {key: value for key, value in found.items() if value.requires_grad}


def _inputs(segment: Segment) -> dict[Key, Tensor]:
    """What an update starts from."""
    found: dict[Key, Tensor] = {(index, ""): tensor for index, tensor in enumerate(segment.before)}
    for index, state in enumerate(segment.state_before):
        found.update(((index, name), value) for name, value in state.items() if value.requires_grad)
    return found
