"""Products by central differences of first-order gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.methods.base import Last, Linearization, Lower, Product, nothing
from betty.backends.torch.tree import Scalar, Tree, axpy, norm, scale, subtract


@dataclass(frozen=True, kw_only=True)
class FiniteDifference(Product):
    """Evaluate products as ``(grad L(theta + e v) - grad L(theta - e v)) / 2 e`` with ``e = epsilon / ||v||``.

    Inexact: the truncation error grows as ``epsilon**2`` times the third derivative along ``v``, the rounding error
    as the machine precision over ``epsilon``; kinks (ReLU) that lie within the step add an error of first order,
    and a ``detach()`` in the loss is differentiated through. Exact on quadratic losses up to rounding.

    Cost: two evaluations with their backward passes a product, and memory of first order only: works where the loss
    cannot be differentiated twice.

    In half precision parameters are rounded to 8 bits (``bf16``) or 11 (``fp16``) wherever they are used, which
    swallows short steps: there a step is at least 0.3 and 0.1 long.

    Args:
        epsilon: Length of the step in parameter space.
        multitask: Leave the lower's parameters where the last evaluation had them: a step of length epsilon down what
            its adjoint measures. An option of the first Betty (``darts_multitask``), for lowers that are to serve the
            upper's task as well; the response itself is the same.

    Reference: Liu, Simonyan and Yang (2019), arXiv:1806.09055, equation 8 and its footnote.
    """

    epsilon: float = 0.01
    multitask: bool = False

    def linearize(self, lower: Lower) -> Linearization:
        return Difference(max(self.epsilon, shortest(lower)), lower)


SHORTEST = {torch.bfloat16: 0.3, torch.float16: 0.1}
"""Where rounding and truncation err alike, on an encoder."""


def shortest(lower: Lower) -> float:
    """The shortest step that the lower's precision can tell from none."""
    held = (SHORTEST.get(leaf.dtype, 0.0) for leaf in lower.parameters)
    evaluated = SHORTEST.get(lower.objective.autocast, 0.0) if lower.objective.autocast else 0.0
    return max(evaluated, *held) if lower.parameters else evaluated


@dataclass(frozen=True, eq=False)
class Difference(Linearization):
    epsilon: float
    lower: Lower

    def hessian(self, v: Tree) -> Tree:
        return self._difference(v, {self.lower.name: self.lower.parameters})[self.lower.name]

    def pull(self, q: Tree) -> dict[str, Tree]:
        return self._difference(q, self.lower.reads, self.lower.last)

    def _difference(self, v: Tree, by: Mapping[str, Tree], last: Last = nothing) -> dict[str, Tree]:
        step = self._step(v)
        ahead = self.lower.gradients(by, axpy(_like(step, v), v, self.lower.parameters))
        half = 0.5 / step
        with last(ahead, half):
            behind = self.lower.gradients(by, axpy(_like(-step, v), v, self.lower.parameters))
        return {name: scale(_like(half, ahead[name]), subtract(ahead[name], behind[name])) for name in by}

    def moved(self, q: Tree) -> Tree:
        """Where the last of the evaluations for the direction ``q`` has the lower's parameters."""
        return axpy(_like(-self._step(q), q), q, self.lower.parameters)

    def _step(self, v: Tree) -> Scalar:
        """How far to go along ``v``; a number where there is no device to wait for."""
        length = norm(v)
        # A zero direction moves nothing and has a zero product; the floor keeps the step finite there.
        least = torch.finfo(length.dtype).tiny ** 0.5
        if length.device.type == "cpu":
            known = length.item()
            return self.epsilon / (least if known < least else known)  # what is not a number stays that
        return self.epsilon / length.clamp_min(least)


def _like(factor: Scalar, tree: Tree) -> Scalar:
    return factor.to(tree[0].dtype) if tree and isinstance(factor, Tensor) else factor
