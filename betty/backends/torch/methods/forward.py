"""Products in forward mode over reverse mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from betty.backends.torch.duals import dual_level, duals, tangent
from betty.backends.torch.methods.base import Linearization, Lower, Product
from betty.backends.torch.objective import Sample
from betty.backends.torch.tree import Tree, detach


@dataclass(frozen=True, kw_only=True)
class Forward(Product):
    """Differentiate the gradient along ``v`` in forward mode (a Jacobian-vector product of ``grad L``). Exact.

    Each product evaluates the loss with its tangent, and one backward pass with tangents by whatever the product
    is by. Where the upper enters late (weights of examples, regularisation) that backward pass is short, and the
    mixed product costs about one training step where double backward takes two or more. No graph is kept between
    products, and nothing is differentiated backward twice.

    Needs forward-mode formulas for the operations of the loss and of its backward pass; attention and recurrent
    layers are computed by plain kernels, which have them.

    Reference: Pearlmutter (1994), "Fast exact multiplication by the Hessian".
    """

    def linearize(self, lower: Lower) -> Linearization:
        return _Tangents(lower)


@dataclass(frozen=True, eq=False)
class _Tangents(Linearization):
    lower: Lower

    def hessian(self, v: Tree) -> Tree:
        name = self.lower.name
        return self._product(v, {name: self.lower.parameters})[name]

    def pull(self, q: Tree) -> dict[str, Tree]:
        return self._product(q, self.lower.reads)

    def _product(self, v: Tree, by: Mapping[str, Tree]) -> dict[str, Tree]:
        return self.lower.averaged(by, lambda sample: self._one(sample, v, by))

    def _one(self, sample: Sample, v: Tree, by: Mapping[str, Tree]) -> Tree:
        name, objective = self.lower.name, self.lower.objective
        with dual_level(), objective.differentiable():
            moving = tuple(leaf.requires_grad_(name in by) for leaf in duals(detach(self.lower.parameters), v))
            inputs = tuple(leaf for key, tree in by.items() for leaf in (moving if key == name else tree))
            gradient = objective.gradient(sample, {name: moving}, inputs)
            return tuple(tangent(part).detach() for part in gradient)
