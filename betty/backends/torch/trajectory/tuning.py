"""Hyperparameters of an optimiser that are parameters of another problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.optim import Optimizer

from betty.backends.torch.tree import Tree
from betty.backends.torch.updates import Group

TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda value: value,
    "exp": torch.exp,
    "softplus": softplus,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class Tuned:
    """One hyperparameter that an optimiser reads from a problem.

    Args:
        option: Its key in the optimiser's groups, such as ``lr``.
        problem: The problem that has it.
        position: Of the parameter with one entry, among the problem's trainable ones.
        transform: Name of the function of that entry; of ``TRANSFORMS``.
    """

    option: str
    problem: str
    position: int
    transform: str = "identity"

    def value(self, tensors: Tree) -> Tensor:
        """The hyperparameter as a 0-dimensional tensor, with the graph that leads to the problem's parameters."""
        return TRANSFORMS[self.transform](tensors[self.position].reshape(()))


def values_of(tuned: Sequence[Tuned], readings: Mapping[str, Tree]) -> dict[str, Tensor]:
    """All tuned hyperparameters, by option."""
    return {one.option: one.value(readings[one.problem]) for one in tuned}


def tuned_groups(
    groups: Sequence[Group | None], tuned: Sequence[Tuned], readings: Mapping[str, Tree]
) -> tuple[Group | None, ...]:
    """Hyperparameters of each parameter, with the tuned ones as ``readings`` have them."""
    if not tuned:
        return tuple(groups)
    values = values_of(tuned, readings)
    return tuple(group if group is None else {**group, **values} for group in groups)


def show(optimizer: Optimizer, values: Mapping[str, Tensor]) -> None:
    """Let the optimiser's groups have the present numbers, for its own update and for whoever looks at them."""
    for option, value in values.items():
        number = float(value.detach())
        for group in optimizer.param_groups:
            group[option] = number
