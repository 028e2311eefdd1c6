"""Inverses of block-diagonal curvature, applied to stored rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.influence.factors import Basis, Joined, same
from betty.backends.torch.influence.units import Unit

State = dict[str, Tensor]

SMALL = 1e-12
"""Part of the largest eigenvalue below which one counts as zero, where nothing damps it: its direction is left out."""
LARGEST = 4096
"""Entries of a block up to which its whole matrix is kept; of larger ones the diagonal."""


@dataclass(frozen=True)
class Damping:
    """What is added to every eigenvalue of a curvature.

    Args:
        value: A part of the mean eigenvalue of the block, or absolute.
        relative: Which of the two.
        decay: Weight decay of the training loss, absolute.
    """

    value: float
    relative: bool
    decay: float = 0.0

    def of(self, values: Tensor) -> float:
        """What is added to the eigenvalues ``values`` of a block."""
        mean = float(values.double().mean()) if self.relative and values.numel() else 1.0
        return self.value * mean + self.decay

    def reciprocal(self, values: Tensor) -> Tensor:
        """``1 / (values + damping)``; zero where that is no positive number."""
        damped = values.clamp(min=0) + self.of(values)
        least = SMALL * float(damped.max()) if damped.numel() else 0.0
        return torch.where(damped > least, damped.reciprocal(), torch.zeros_like(damped))


class Preconditioner(ABC):
    """A linear map from rows to rows, symmetric and not negative: ``(H + damping)^-1``."""

    @abstractmethod
    def solve(self, rows: Tensor) -> Tensor:
        """``[m, size]`` to ``[m, size]``."""

    def state(self) -> State:
        """Tensors from which it can be made again."""
        return {}


class Identity(Preconditioner):
    """No curvature."""

    def solve(self, rows: Tensor) -> Tensor:
        return rows


class Blocks(Preconditioner):
    """A block for each part of a row: eigenvectors and inverse eigenvalues, or a diagonal, or those of two sides.

    Args:
        dimensions: Entries of each part, in order.
        inverse: By part, what eigen-coordinates are multiplied by: ``[d]``, or ``[rows, columns]`` of a part that has
            two sides.
        bases: By part, eigenvectors as rows; ``left.NAME`` and ``right.NAME`` of two sides, ``NAME`` of one; none of a
            part that is diagonal.
    """

    def __init__(
        self, dimensions: Mapping[str, int], inverse: Mapping[str, Tensor], bases: Mapping[str, Tensor]
    ) -> None:
        self.dimensions, self.inverse, self.bases = dict(dimensions), dict(inverse), dict(bases)

    def solve(self, rows: Tensor) -> Tensor:
        parts = rows.split(list(self.dimensions.values()), dim=1)
        return torch.cat([self._part(name, part) for name, part in zip(self.dimensions, parts, strict=True)], 1)

    def _part(self, name: str, part: Tensor) -> Tensor:
        inverse = self.inverse[name].to(part)
        if inverse.dim() == 2:
            left, right = (self.bases[f"{side}.{name}"].to(part) for side in ("left", "right"))
            found = left @ part.view(-1, *inverse.shape) @ right.T
            return (left.T @ (found * inverse) @ right).flatten(1)
        if name not in self.bases:
            return part * inverse
        basis = self.bases[name].to(part)
        return ((part @ basis.T) * inverse) @ basis

    def state(self) -> State:
        return {
            **{f"inverse.{name}": value for name, value in self.inverse.items()},
            **{f"basis.{name}": value for name, value in self.bases.items()},
        }

    @classmethod
    def restored(cls, dimensions: Mapping[str, int], state: State) -> Blocks:
        """The map of a saved state."""
        sides: dict[str, dict[str, Tensor]] = {"inverse": {}, "basis": {}}
        for key, value in state.items():
            side, _, name = key.partition(".")
            sides[side][name] = value
        return cls(dimensions, sides["inverse"], sides["basis"])


class Moments:
    """Second moments of rows, a block for each part or one for all; of large parts the diagonal.

    Args:
        dimensions: Entries of each part.
        whole: Whether there is one block for all parts.
        largest: Entries up to which a block is whole.
    """

    def __init__(self, dimensions: Mapping[str, int], *, whole: bool = False, largest: int = LARGEST) -> None:
        self.parts = dict(dimensions)
        self.dimensions = {"all": sum(dimensions.values())} if whole else dict(dimensions)
        self.largest = largest
        self.sums: dict[str, Tensor] = {}
        self.count = torch.zeros((), dtype=torch.float64)

    def add(self, rows: Tensor, weights: Tensor | None = None, count: int | None = None) -> None:
        """Take rows ``[n, size]`` into the sums.

        Args:
            rows: Of some examples.
            weights: Of each row's outer product, ``[n]``; ones by default.
            count: How many examples the rows are of, where not one each.
        """
        scaled = rows if weights is None else rows * weights.to(rows).sqrt().unsqueeze(1)
        for name, part in zip(self.dimensions, scaled.split(list(self.dimensions.values()), 1), strict=True):
            found = part.T @ part if part.shape[1] <= self.largest else part.square().sum(0)
            self.sums[name] = self.sums[name] + found if name in self.sums else found
        self.count = self.count + (len(rows) if count is None else count)

    def finished(self, damping: Damping, together: Joined = same) -> Blocks:
        """The inverse of the mean."""
        count = float(together(self.count))
        inverse, bases = {}, {}
        for name, total in self.sums.items():
            mean = together(total) / count
            if mean.dim() == 1:
                inverse[name] = damping.reciprocal(mean)
                continue
            values, vectors = torch.linalg.eigh(mean.double())
            inverse[name], bases[name] = damping.reciprocal(values).to(mean), vectors.T.to(mean).contiguous()
        return Blocks(self.dimensions, inverse, bases)


def kronecker(
    units: Sequence[Unit], among: Basis, values: Mapping[str, Tensor], damping: Damping, others: Blocks
) -> Blocks:
    """K-FAC and EK-FAC: eigenvalues ``[rows, columns]`` of each matrix unit in the eigenbasis of its factors.

    Args:
        units: All units, in the order of rows.
        among: Eigenvectors of the factors.
        values: The products of the factors' eigenvalues (K-FAC), or corrected ones (EK-FAC).
        damping: Of each unit apart.
        others: The blocks of units that are no matrices.
    """
    inverse, bases = dict(others.inverse), dict(others.bases)
    for unit in units:
        if unit.matrix:
            inverse[unit.name] = damping.reciprocal(values[unit.name])
            bases[f"left.{unit.name}"], bases[f"right.{unit.name}"] = among.left[unit.name], among.right[unit.name]
    return Blocks({unit.name: unit.size for unit in units}, inverse, bases)
