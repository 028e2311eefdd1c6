"""Kronecker factors of layers' curvature, and their eigenvectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.influence.units import Gradients, Outer, Unit

Joined = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes."""
SIDE = 16384
"""Rows or columns up to which the second moments of a side are a matrix; of larger sides the diagonal is kept."""


def same(tensor: Tensor) -> Tensor:
    return tensor


class Factors:
    r"""Second moments of what layers read (``A``) and of what their outputs are differentiated by (``S``).

    The curvature of a layer is taken for their Kronecker product: with the gradient :math:`\sum_t g_t a_t^\top` of an
    example it is :math:`\frac1N \sum_{n,t} g_t g_t^\top \otimes \frac1{NT} \sum_{n,t} a_t a_t^\top`, which is exact
    where positions are independent of one another and ``g`` of ``a``: Grosse and Martens (2016), arXiv:1602.01407,
    theorem 1. kronfluence divides ``S`` by positions too: its eigenvectors are the same, and its products of
    eigenvalues are these divided by ``T``.

    Sums are independent of how examples come in batches and processes, and add up.

    Args:
        units: The matrix units; others are left to their second moments.
        device: Where the sums are kept; that of the gradients by default.
    """

    def __init__(self, units: Sequence[Unit], device: torch.device | None = None) -> None:
        self.units = tuple(unit for unit in units if unit.matrix)
        self.device = device
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.seen: dict[str, float] = {}
        self.count = 0.0

    def add(self, gradients: Gradients) -> None:
        """Take the examples of a batch into the sums."""
        for unit in self.units:
            for outer in gradients.outers.get(unit.name, ()):
                self._sum(self.inputs, unit.name, _second(outer.right))
                self._sum(self.outputs, unit.name, _left_second(outer, unit))
                self.seen[unit.name] = self.seen.get(unit.name, 0.0) + outer.right.shape[0] * outer.right.shape[1]
        self.count += gradients.examples

    def _sum(self, total: dict[str, Tensor], name: str, part: Tensor) -> None:
        part = part if self.device is None else part.to(self.device)
        if name not in total:
            total[name] = part
        elif total[name].dim() == part.dim():
            total[name] += part
        else:  # places of an embedding whose weight a linear layer has too
            total[name] = _matrix(total[name]) + _matrix(part)

    def joined(self, together: Joined) -> Factors:
        """The factors of all processes' examples; every process has to call it, one without examples too."""
        told = together(self._told()).tolist()
        found = Factors(self.units, self.device)
        found.count, double = told[0]
        kind = torch.float64 if double else torch.float32
        for unit, (seen, whole) in zip(self.units, told[1:], strict=True):
            if not seen:
                continue
            found.seen[unit.name] = seen
            found.inputs[unit.name] = together(self._own(self.inputs, unit.name, unit.columns, kind))
            own = self._own(self.outputs, unit.name, unit.rows, kind, whole=bool(whole))
            found.outputs[unit.name] = together(own)
        return found

    def _told(self) -> Tensor:
        """What processes have to know before they add up: examples and whether sums are in double precision; by unit,
        positions and whether the outputs' moments are a matrix.
        """
        double = any(total.dtype == torch.float64 for total in self.inputs.values())
        rows = [
            [self.seen.get(unit.name, 0.0), unit.name in self.outputs and self.outputs[unit.name].dim() == 2]
            for unit in self.units
        ]
        return torch.tensor([[self.count, double], *rows], dtype=torch.float64, device=self._place())

    def _place(self) -> torch.device | None:
        return self.device or next((total.device for total in self.inputs.values()), None)

    def _own(
        self, sums: Mapping[str, Tensor], name: str, size: int, kind: torch.dtype, *, whole: bool | None = None
    ) -> Tensor:
        whole = size <= SIDE if whole is None else whole
        if name not in sums:
            return torch.zeros((size, size) if whole else (size,), dtype=kind, device=self._place())
        return _matrix(sums[name]) if whole else sums[name]

    def pair(self, unit: Unit) -> tuple[Tensor, Tensor]:
        """``S [rows, rows]`` and ``A [columns, columns]``, whose Kronecker product is the unit's curvature.

        Only the diagonal, ``[rows]`` or ``[columns]``, where there is no more to it or the side is too large: of an
        embedding's places, and of a unit that was never used.
        """
        if unit.name not in self.inputs:
            like = next(iter(self.inputs.values()), torch.zeros(0))
            return like.new_zeros(unit.rows), like.new_zeros(unit.columns)
        return self.outputs[unit.name] / self.count, self.inputs[unit.name] / self.seen[unit.name]

    def state(self) -> dict[str, Tensor]:
        """Tensors from which it can be made again."""
        found = {"told": self._told()}
        for name, sums in (("inputs", self.inputs), ("outputs", self.outputs)):
            found |= {f"{name}.{unit}": total for unit, total in sums.items()}
        return found

    @classmethod
    def restored(
        cls, units: Sequence[Unit], state: Mapping[str, Tensor], device: torch.device | None = None
    ) -> Factors:
        """The factors of a saved state."""
        found = cls(units, device)
        told = state["told"].tolist()
        found.count = told[0][0]
        found.seen = {unit.name: seen for unit, (seen, _) in zip(found.units, told[1:], strict=True) if seen}
        for key, total in state.items():
            side, _, name = key.partition(".")
            if name:
                (found.inputs if side == "inputs" else found.outputs)[name] = total.clone()
        return found


def _matrix(moments: Tensor) -> Tensor:
    return moments if moments.dim() == 2 else torch.diag(moments)


def _second(side: Tensor) -> Tensor:
    flat = side.flatten(0, 1)
    return flat.T @ flat if flat.shape[1] <= SIDE else flat.square().sum(0)


def _left_second(outer: Outer, unit: Unit) -> Tensor:
    """Of an embedding's places the moments are their counts, on the diagonal; it has the slope on its right side."""
    if outer.indexed:
        return torch.bincount(outer.left.flatten(), minlength=unit.rows).to(outer.right.dtype)
    return _second(outer.left)


@dataclass(frozen=True, eq=False)
class Basis:
    """Eigenvectors of the two factors of each matrix unit, and the products of their eigenvalues.

    Args:
        left: ``[rows, rows]`` by unit name; a row is an eigenvector. None of a diagonal factor, whose eigenvectors are
            the axes.
        right: ``[columns, columns]``.
        values: ``[rows, columns]``: ``s_i a_j``, the eigenvalues of the Kronecker product.
    """

    left: Mapping[str, Tensor]
    right: Mapping[str, Tensor]
    values: Mapping[str, Tensor]

    def sides(self, unit: Unit) -> tuple[Tensor | None, Tensor | None]:
        """What a unit's gradient is projected by, left and right; ``None`` for the axes."""
        return self.left.get(unit.name), self.right.get(unit.name)


def basis(factors: Factors, device: torch.device) -> Basis:
    """The eigenvectors of factors, in double precision while they are computed.

    Args:
        factors: Of all examples.
        device: Where the result is kept.
    """
    left: dict[str, Tensor] = {}
    right: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    for unit in factors.units:
        outputs, inputs = factors.pair(unit)
        kind = inputs.dtype
        spread = []
        for moments, vectors in ((outputs, left), (inputs, right)):
            eigenvalues = moments
            if moments.dim() == 2:
                eigenvalues, columns = torch.linalg.eigh(moments.double())
                vectors[unit.name] = columns.T.to(device, kind).contiguous()
            spread.append(eigenvalues.clamp(min=0).to(device, kind))
        values[unit.name] = torch.outer(*spread)
    return Basis(left, right, values)
