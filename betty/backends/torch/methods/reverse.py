"""Products by double backward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.compiling.linearization import linearized
from betty.backends.torch.methods.base import Linearization, Lower, Product
from betty.backends.torch.scaling import factor_of
from betty.backends.torch.tree import Tree


@dataclass(frozen=True, kw_only=True)
class Reverse(Product):
    """Differentiate the gradient's own graph. Exact.

    Builds the graph of ``g = grad_theta L`` once; each product is one backward pass through it, about twice the
    work of the loss's own backward pass. Memory: the graph of the loss and of its gradient, for as long as the
    response is computed. Needs a loss that can be differentiated twice.

    Reference: Pearlmutter (1994), "Fast exact multiplication by the Hessian".
    """

    def linearize(self, lower: Lower) -> Linearization:
        return linearized(lower, "reverse", _linearize)


def _linearize(lower: Lower) -> Linearization:
    with torch.enable_grad(), lower.objective.differentiable():
        losses = [lower.objective.pure(sample, {}) for sample in lower.samples]
        loss = torch.stack(losses).mean() if len(losses) > 1 else losses[0]
        # Left scaled: scaled down, what is passed back through it would vanish in half precision.
        factor = factor_of(lower.objective.scaler, loss)
        loss = loss if factor is None else loss * factor
        gradient = torch.autograd.grad(
            loss, lower.parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
    return _Graph(gradient, lower, factor)


@dataclass(frozen=True, eq=False)
class _Graph(Linearization):
    gradient: Tree
    lower: Lower
    factor: Tensor | None = None

    def hessian(self, v: Tree) -> Tree:
        return self.lower.decayed(v, self._backward(v, self.lower.parameters))

    def pull(self, q: Tree) -> dict[str, Tree]:
        reads = self.lower.reads
        flat = self._backward(q, tuple(leaf for tree in reads.values() for leaf in tree))
        found, start = {}, 0
        for name, tree in reads.items():
            found[name] = flat[start : start + len(tree)]
            start += len(tree)
        return found

    def _backward(self, cotangent: Tree, by: Tree) -> Tree:
        # Parts of a gradient that do not depend on anything (a linear loss) have no graph and no derivative.
        pairs = [(part, with_) for part, with_ in zip(self.gradient, cotangent, strict=True) if part.requires_grad]
        if not pairs:
            return tuple(torch.zeros_like(leaf) for leaf in by)
        parts: tuple[Tensor, ...]
        parts, withs = zip(*pairs, strict=True)
        found = torch.autograd.grad(parts, by, withs, retain_graph=True, allow_unused=True, materialize_grads=True)
        return found if self.factor is None else tuple(part / self.factor for part in found)
