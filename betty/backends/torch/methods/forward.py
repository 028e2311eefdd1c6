"""Products in forward mode over reverse mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from betty.backends.torch.compiling.linearization import linearized
from betty.backends.torch.duals import dual_level, duals, tangent
from betty.backends.torch.methods.base import Linearization, Lower, Product
from betty.backends.torch.objective import Sample
from betty.backends.torch.tree import Tree, detach


@dataclass(frozen=True, kw_only=True)
class Forward(Product):
    """Differentiate along ``v`` in forward mode, and by what the product is by in reverse mode. Exact.

    A Hessian-vector product is the tangent of the gradient. The mixed product is the gradient by ``x`` of the loss's
    tangent: one forward pass with tangents, and a backward pass through what lies between ``x`` and the loss. Where
    the upper enters late (weights of examples, regularisation) that pass is short, and the product costs about one
    training step where double backward takes two or more. No graph is kept between products, and nothing is
    differentiated backward twice.

    Needs forward-mode formulas for the operations of the loss and of its backward pass; attention and recurrent
    layers are computed by plain kernels, which have them.

    Reference: Pearlmutter (1994), "Fast exact multiplication by the Hessian".
    """

    def linearize(self, lower: Lower) -> Linearization:
        return linearized(lower, "forward", _Tangents)


@dataclass(frozen=True, eq=False)
class _Tangents(Linearization):
    lower: Lower

    def hessian(self, v: Tree) -> Tree:
        name = self.lower.name
        by = {name: self.lower.parameters}
        image = self.lower.averaged(by, lambda sample: self._forward_over_reverse(sample, v, by))[name]
        return self.lower.decayed(v, image)

    def pull(self, q: Tree) -> dict[str, Tree]:
        reads = self.lower.reads
        return self.lower.averaged(reads, lambda sample: self._mixed(sample, q, reads))

    def _mixed(self, sample: Sample, v: Tree, by: Mapping[str, Tree]) -> Tree:
        """The gradient by ``x`` of the loss's tangent: the shorter way, where tangents can be differentiated.

        Some formulas of torch compute tangents in place. That is noticed by autograd itself, and the tangent of the
        gradient is taken instead, from then on.
        """
        objective = self.lower.objective
        if objective.smooth_tangents:
            try:
                return self._reverse_over_forward(sample, v, by)
            except RuntimeError as error:
                if "inplace operation" not in str(error) and "not implemented" not in str(error):
                    raise
                objective.smooth_tangents = False
        return self._forward_over_reverse(sample, v, by)

    def _forward_over_reverse(self, sample: Sample, v: Tree, by: Mapping[str, Tree]) -> Tree:
        name, objective = self.lower.name, self.lower.objective
        with dual_level(switches=objective.switches), objective.differentiable():
            moving = tuple(leaf.requires_grad_(name in by) for leaf in duals(detach(self.lower.parameters), v))
            inputs = tuple(leaf for key, tree in by.items() for leaf in (moving if key == name else tree))
            gradient = objective.gradient(sample, {name: moving}, inputs)
            return tuple(tangent(part).detach() for part in gradient)

    def _reverse_over_forward(self, sample: Sample, v: Tree, by: Mapping[str, Tree]) -> Tree:
        name, objective = self.lower.name, self.lower.objective
        inputs = tuple(leaf for tree in by.values() for leaf in tree)
        with torch.enable_grad(), dual_level(switches=objective.switches), objective.differentiable():
            return objective.slope(sample, {name: duals(detach(self.lower.parameters), v)}, inputs)
