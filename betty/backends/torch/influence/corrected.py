"""Eigenvalues of layers' curvature, measured in the eigenbasis of their Kronecker factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from betty.backends.torch.influence.factors import Basis, Joined, same
from betty.backends.torch.influence.units import Gradients, Outer, Unit

TOGETHER = 1 << 25
"""Entries of per-example gradients that are formed at once."""


class Corrected:
    """Second moments of gradients in a basis: the eigenvalues that suit its eigenvectors best.

    Args:
        units: The matrix units; others are passed over.
        among: The basis; its eigenvectors are brought to where gradients are.
        device: Where the sums are kept; where the basis is by default.

    Reference: George et al. (2018), arXiv:1806.03884, equation 10.
    """

    def __init__(self, units: Sequence[Unit], among: Basis, device: torch.device | None = None) -> None:
        self.units, self.basis = tuple(unit for unit in units if unit.matrix), among
        self.sums = {unit.name: torch.zeros_like(among.values[unit.name], device=device) for unit in self.units}
        self.count = 0.0

    def add(self, gradients: Gradients) -> None:
        """Take the examples of a batch into the sums."""
        for unit in self.units:
            outers = gradients.outers.get(unit.name)
            if not outers:
                continue
            left, right = (None if one is None else one.to(outers[0].right) for one in self.basis.sides(unit))
            self.sums[unit.name] += squares(outers, unit, left, right).to(self.sums[unit.name])
        self.count += gradients.examples

    def values(self, together: Joined = same) -> dict[str, Tensor]:
        """The mean squares ``[rows, columns]`` by unit; every process has to call it."""
        like = next(iter(self.sums.values()), torch.zeros(0))
        count = float(together(torch.tensor(self.count, dtype=torch.float64, device=like.device)))
        return {name: together(total) / max(1.0, count) for name, total in self.sums.items()}


def squares(outers: Sequence[Outer], unit: Unit, left: Tensor | None, right: Tensor | None) -> Tensor:
    """The sum over examples of the squared entries of projected gradients, ``[r, s]``.

    Args:
        outers: The uses of the unit.
        unit: The unit.
        left: ``[r, rows]``; the axes by default.
        right: ``[s, columns]``.
    """
    if left is None and all(outer.indexed for outer in outers):
        return _by_place(outers, unit, right)
    first = outers[0]
    if len(outers) == 1 and first.right.shape[1] == 1 and not first.indexed:
        # The square of an outer product is the outer product of squares: gradients are never formed.
        own, other = (
            (side[:, 0] if by is None else side[:, 0] @ by.T).square()
            for side, by in ((first.left, left), (first.right, right))
        )
        return own.T @ other
    parts = _parts(outers, max(1, TOGETHER // unit.size))
    return torch.stack([_squares(part, left, right) for part in parts]).sum(0)


def _parts(outers: Sequence[Outer], step: int) -> list[list[Outer]]:
    starts = range(0, len(outers[0].right), step)
    return [[Outer(o.left[at : at + step], o.right[at : at + step], o.rows) for o in outers] for at in starts]


def _squares(outers: Sequence[Outer], left: Tensor | None, right: Tensor | None) -> Tensor:
    found = outers[0].projected(left, right)
    for outer in outers[1:]:
        found = found + outer.projected(left, right)
    return found.square().sum(0)


def _by_place(outers: Sequence[Outer], unit: Unit, right: Tensor | None) -> Tensor:
    """Of an embedding only the rows that an example reads are not zero; what it reads twice adds up."""
    places = torch.cat([outer.left for outer in outers], 1)
    slopes = torch.cat([outer.right for outer in outers], 1).flatten(0, 1)
    slopes = slopes if right is None else slopes @ right.T
    examples = torch.arange(len(places), device=places.device).unsqueeze(1)
    read, where = torch.unique((examples * unit.rows + places).flatten(), return_inverse=True)
    summed = slopes.new_zeros(len(read), slopes.shape[1]).index_add_(0, where, slopes)
    total = slopes.new_zeros(unit.rows, slopes.shape[1])
    return total.index_add_(0, read % unit.rows, summed.square())
