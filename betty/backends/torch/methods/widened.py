"""Products of a lower in half precision, for solves in single precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from betty.backends.torch.methods.base import Linearization, Lower
from betty.backends.torch.tree import Tree, norm, scale, wide


@dataclass(frozen=True, eq=False)
class Widened(Linearization):
    """A linearisation whose vectors are in single precision, and of length one where they enter half precision.

    Products are linear in their vector. One of length one neither vanishes nor overflows on its way through ``fp16``,
    whose smallest number is 6e-8 and whose largest is 65504.
    """

    inner: Linearization
    lower: Lower

    def hessian(self, v: Tree) -> Tree:
        length, unit = self._unit(v)
        return scale(length, wide(self.inner.hessian(unit)))

    def pull(self, q: Tree) -> dict[str, Tree]:
        length, unit = self._unit(q)
        return {name: scale(length, wide(tree)) for name, tree in self.inner.pull(unit).items()}

    def _unit(self, v: Tree) -> tuple[torch.Tensor, Tree]:
        length = norm(v)
        length = length.clamp_min(torch.finfo(length.dtype).tiny ** 0.5)
        unit = scale(1 / length, v)
        return length, tuple(one.to(leaf.dtype) for one, leaf in zip(unit, self.lower.parameters, strict=True))


def widened(linearize: Callable[[Lower], Linearization], lower: Lower) -> Linearization:
    """The linearisation, in single precision outside where the lower is in half precision."""
    found = linearize(lower)
    return Widened(found, lower) if narrow(lower) else found


def narrow(lower: Lower) -> bool:
    """Whether products are evaluated in half precision that has to be kept from vanishing or overflowing."""
    return lower.objective.autocast is torch.float16 or wide(lower.parameters) is not lower.parameters
