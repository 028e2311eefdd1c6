"""Kronecker factors of layers' curvature, their eigenvectors, and eigenvalues that are measured in their basis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.influence.units import Gradients, Outer, Unit

Joined = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes."""


def same(tensor: Tensor) -> Tensor:
    return tensor


class Factors:
    """Second moments of what layers read (``A``) and of what their outputs are differentiated by (``S``).

    The curvature of a layer is taken for their Kronecker product: ``E[(a x g)(a x g)^T] ~ E[a a^T] x E[g g^T]``.
    Both are sums over positions, divided by the number of examples for ``S`` and of positions for ``A``, so that a layer
    whose positions are alike has the curvature of their sum, as in Grosse and Martens (2016), arXiv:1602.01407, and as
    kronfluence has them.

    Args:
        units: The matrix units; others are left to their second moments.
        device: Where the sums are kept; that of the gradients by default.
    """

    def __init__(self, units: Sequence[Unit], device: torch.device | None = None) -> None:
        self.units = tuple(unit for unit in units if unit.matrix)
        self.device = device
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.seen: dict[str, Tensor] = {}
        self.count = torch.zeros(())

    def add(self, gradients: Gradients) -> None:
        """Take the examples of a batch into the sums."""
        for unit in self.units:
            for outer in gradients.outers.get(unit.name, ()):
                self._sum(self.inputs, unit.name, _second(outer.right))
                self._sum(self.outputs, unit.name, _left_second(outer, unit))
                self._sum(self.seen, unit.name, torch.tensor(float(outer.right.shape[1] * len(outer.right))))
        self.count = self.count + gradients.examples

    def _sum(self, total: dict[str, Tensor], name: str, part: Tensor) -> None:
        part = part if self.device is None else part.to(self.device)
        total[name] = total[name] + part if name in total else part

    def joined(self, together: Joined) -> Factors:
        """The factors of all processes' examples."""
        found = Factors(self.units, self.device)
        for name in ("inputs", "outputs", "seen"):
            setattr(found, name, {key: together(value) for key, value in getattr(self, name).items()})
        found.count = together(self.count)
        return found

    def pair(self, unit: Unit) -> tuple[Tensor, Tensor]:
        """``S [rows, rows]`` and ``A [columns, columns]``; their Kronecker product is the unit's curvature."""
        if unit.name not in self.inputs:  # never used
            like = torch.zeros(0)
            return like.new_zeros(unit.rows, unit.rows), like.new_zeros(unit.columns, unit.columns)
        return self.outputs[unit.name] / self.count, self.inputs[unit.name] / self.seen[unit.name]


def _second(right: Tensor) -> Tensor:
    flat = right.flatten(0, 1)
    return flat.T @ flat


def _left_second(outer: Outer, unit: Unit) -> Tensor:
    """Of an embedding's places the moments are their counts, on the diagonal; it has the slope on its right side."""
    if outer.indexed:
        counts = torch.bincount(outer.left.flatten(), minlength=unit.rows)
        return torch.diag(counts.to(outer.right.dtype))
    return _second(outer.left)


@dataclass(frozen=True, eq=False)
class Basis:
    """Eigenvectors of the two factors of each matrix unit, and the products of their eigenvalues.

    Args:
        left: ``[rows, rows]`` by unit name; a row is an eigenvector.
        right: ``[columns, columns]``.
        values: ``[rows, columns]``: ``s_i a_j``, the eigenvalues of the Kronecker product.
    """

    left: Mapping[str, Tensor]
    right: Mapping[str, Tensor]
    values: Mapping[str, Tensor]


def basis(factors: Factors, device: torch.device) -> Basis:
    """The eigenvectors of factors, in double precision while they are computed."""
    left, right, values = {}, {}, {}
    for unit in factors.units:
        outputs, inputs = factors.pair(unit)
        kind = inputs.dtype
        (s, rows), (a, columns) = (torch.linalg.eigh(part.double()) for part in (outputs, inputs))
        left[unit.name], right[unit.name] = (
            rows.T.to(device, kind).contiguous(),
            columns.T.to(device, kind).contiguous(),
        )
        values[unit.name] = torch.outer(s.clamp(min=0), a.clamp(min=0)).to(device, kind)
    return Basis(left, right, values)


class Corrected:
    """Second moments of gradients in a basis: the eigenvalues that suit its eigenvectors best.

    Reference: George et al. (2018), arXiv:1806.03884, equation 10.
    """

    def __init__(self, units: Sequence[Unit], among: Basis) -> None:
        self.units, self.basis = tuple(unit for unit in units if unit.matrix), among
        self.sums: dict[str, Tensor] = {}
        self.count = torch.zeros(())

    def add(self, gradients: Gradients) -> None:
        for unit in self.units:
            seen = gradients.projected(unit, self.basis.left[unit.name], self.basis.right[unit.name])
            part = seen.square().sum(0)
            self.sums[unit.name] = self.sums[unit.name] + part if unit.name in self.sums else part
        self.count = self.count + gradients.examples

    def values(self, together: Joined = same) -> dict[str, Tensor]:
        """The mean squares ``[rows, columns]`` by unit."""
        count = together(self.count)
        return {name: together(total) / float(count) for name, total in self.sums.items()}
