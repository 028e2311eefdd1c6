r"""The trajectory of a problem's last updates, kept so that it can be differentiated in reverse.

One :class:`Segment` is one update, :math:`(\theta_{t+1}, s_{t+1}) = u(\theta_t, s_t, \nabla L(\theta_t, x_t))`, with
its graph and nothing beyond: parameters, optimiser state and what the loss reads enter as leaves. The reverse sweep
passes a cotangent from segment to segment. Memory is one graph of a gradient per update kept.

Segments of which none is forgotten before the others may be *linked*: one enters with what the one before it has
computed, so that autograd sweeps them all at once.

What other problems read of this one they read at a certain *version* (number of updates so far); an adjoint is
therefore kept by version, and enters the sweep where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from betty.backends.torch.tree import Tree, add, copy
from betty.backends.torch.updates import Group, Rule, State, clip, common_rate

Edits = tuple[tuple[Tensor, ...], list[int]]
"""Tensors, and what changes when someone writes to one or puts another in its place."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The parameters of another problem as an update's loss has read them.

    ``shared`` are the copies that all updates share, where ``tensors`` are leaves of this update alone.
    """

    problem: str
    version: int
    tensors: Tree
    shared: Tree | None = None


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
    linked: bool = False
    """Whether ``before`` and ``state_before`` are what the update before has computed, with its graph."""

    @classmethod
    def open(cls, version: int, parameters: Tree, optimizer: Optimizer) -> Segment:
        """Begin an update at copies of the live parameters and optimiser state, as leaves."""
        return cls.at(version, copy(parameters), [optimizer.state.get(parameter, {}) for parameter in parameters])

    @classmethod
    def following(cls, version: int, last: Segment, *, link: bool) -> Segment:
        """Begin an update where ``last`` has ended, with its graph or from its values alone."""
        if link and all(leaf.requires_grad for leaf in last.after):
            return cls(version, last.after, last.state_after, linked=True)
        return cls.at(version, last.after, last.state_after)

    @classmethod
    def at(cls, version: int, parameters: Tree, states: Iterable[Mapping[str, Any]]) -> Segment:
        """Begin an update at any values, which are shared, and the optimiser state beside each, which is copied."""
        shared = tuple(leaf.detach().requires_grad_() for leaf in parameters)
        return cls(version, shared, tuple(_leaf_state(state) for state in states))

    def read(self, read: Reading) -> Tree:
        """Note what a micro-batch reads; what it is to read, by which the gradient is that of this update alone.

        Micro-batches that read the same tensors are one reading. Segments that are linked have leaves of their own:
        a sweep that begins amid them would count what earlier ones have read as well.
        """
        for known in self.readings:
            if (known.shared or known.tensors) is read.tensors:
                return known.tensors
        if self.linked:
            own = tuple(leaf.detach().requires_grad_() for leaf in read.tensors)
            read = Reading(read.problem, read.version, own, read.tensors)
        self.readings.append(read)
        return read.tensors

    def gain(self, gradient: Tree) -> None:
        """Add the gradient of one more micro-batch, with its graph."""
        self.gradient = gradient if self.gradient is None else add(self.gradient, gradient)

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


def edits(parameters: Tree, optimizer: Optimizer) -> Edits:
    """How often parameters and optimiser state were written to, and where their values are."""
    tensors = parameters
    if optimizer.state:
        states = [optimizer.state.get(parameter, {}) for parameter in parameters]
        tensors += tuple(value for state in states for value in state.values() if isinstance(value, Tensor))
    # The tensors are held, so that no other can have the address of one of them.
    numbers = [*map(id, tensors), *[one._version for one in tensors], *[one.data_ptr() for one in tensors]]
    return tensors, numbers


def _leaf_state(state: Mapping[str, Any]) -> State:
    return {key: _leaf(key, value) for key, value in state.items() if value is not None}


def _leaf(key: str, value: Tensor) -> Tensor:
    copied = value.detach().clone()
    return copied if key == "step" else copied.requires_grad_()


def updated(
    rule: Rule, parameters: Tree, gradient: Tree, states: Sequence[State], groups: Sequence[Group | None]
) -> tuple[Tree, tuple[State, ...]]:
    """Parameters and optimiser states after an update; as they were where ``groups`` has ``None``."""
    rate = common_rate(rule, groups)
    if rate is not None:
        # Not torch._foreach_add, whose graph keeps the gradient.
        pairs = zip(parameters, gradient, strict=True)
        return tuple([torch.add(leaf, part, alpha=-rate) for leaf, part in pairs]), tuple([{}] * len(parameters))
    parts = zip(parameters, gradient, states, groups, strict=True)
    moved = [(leaf, state) if group is None else rule(leaf, part, state, group) for leaf, part, state, group in parts]
    return tuple([leaf for leaf, _ in moved]), tuple([state for _, state in moved])


def holders(optimizer: Optimizer, parameters: Tree) -> tuple[Group | None, ...]:
    """The hyperparameters of each parameter as they stand; ``None`` for one that the optimiser does not hold."""
    found: dict[int, Group] = {}
    for group in optimizer.param_groups:
        values = {
            key: value.detach().clone() if isinstance(value, Tensor) else value
            for key, value in group.items()
            if key != "params"
        }
        found.update(dict.fromkeys(map(id, group["params"]), values))
    return tuple([found.get(id(parameter)) for parameter in parameters])


def write(
    optimizer: Optimizer, parameters: Tree, after: Tree, states: Sequence[State], groups: Sequence[Group | None]
) -> None:
    """Give the live parameters and the optimiser what an update has computed."""
    with torch.set_grad_enabled(False):  # faster to enter than no_grad
        torch._foreach_copy_(list(parameters), list(after))
    if not any(states) and not optimizer.state:
        return
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

    def map(self, change: Callable[[Tree], Tree]) -> Adjoint:
        """The adjoint with all its trees passed through ``change`` at once."""
        flat = iter(change(tuple(leaf for tree in self.by_version.values() for leaf in tree)))
        found = Adjoint()
        found.by_version = {version: tuple(next(flat) for _ in tree) for version, tree in self.by_version.items()}
        return found

    def total(self) -> Tree | None:
        """The sum over versions, for responses that know the present alone; ``None`` if nothing arrived."""
        result: Tree | None = None
        for tree in self.by_version.values():
            result = tree if result is None else add(result, tree)
        return result
