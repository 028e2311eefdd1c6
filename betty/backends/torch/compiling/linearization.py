"""A linearised lower problem whose products are compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from betty.backends.torch.compiling.seconds import Ask
from betty.backends.torch.methods.base import Linearization, Lower
from betty.backends.torch.tree import Tree

Plain = Callable[[Lower], Linearization]


@dataclass(frozen=True, eq=False)
class CompiledLinearization(Linearization):
    """Products that are compiled whole, from the micro-batch to the result; eager ones where they cannot be.

    Args:
        lower: Where it is linearised.
        kind: Mode of the outer derivative.
        plain: Linearises eagerly.
    """

    lower: Lower
    kind: str
    plain: Plain

    def hessian(self, v: Tree) -> Tree:
        name = self.lower.name
        found = self._products(v, {name: self.lower.parameters}, lambda one: one.hessian(v))
        return self.eager.hessian(v) if found is None else self.lower.decayed(v, found[name])

    def pull(self, q: Tree) -> dict[str, Tree]:
        found = self._products(q, self.lower.reads, lambda one: _flat(one.pull(q)))
        return self.eager.pull(q) if found is None else found

    @cached_property
    def eager(self) -> Linearization:
        return self.plain(self.lower)

    def _products(
        self, v: Tree, by: Mapping[str, Tree], plainly: Callable[[Linearization], Tree]
    ) -> dict[str, Tree] | None:
        products, lower = self.lower.objective.products, self.lower
        assert products is not None
        ask = Ask(self.kind, lower.parameters, _flat(by))
        found: list[Tree] = []
        for sample in lower.samples:
            one = replace(lower, samples=(sample,), decay=())
            product = products(ask, sample, v, lambda one=one: plainly(self.plain(one)))  # type: ignore[misc]
            if product is None:
                return None
            found.append(product)
        order = iter(found)
        return lower.averaged(by, lambda _: next(order))


def linearized(lower: Lower, kind: str, plain: Plain) -> Linearization:
    """By compiled products, where the program asks for them."""
    return plain(lower) if lower.objective.products is None else CompiledLinearization(lower, kind, plain)


def _flat(trees: Mapping[str, Tree]) -> Tree:
    return tuple(leaf for tree in trees.values() for leaf in tree)
