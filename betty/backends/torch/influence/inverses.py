"""Inverses of block-diagonal curvature, applied to stored rows."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.influence.factors import Basis, Joined, same
from betty.backends.torch.influence.units import Unit

log = logging.getLogger("betty")

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

    def reciprocal(self, values: Tensor, measured: torch.dtype | None = None) -> Tensor:
        """``1 / (values + damping)``; zero where that is no positive number.

        Without damping, eigenvalues that rounding may have made of zero count as zero.

        Args:
            values: The eigenvalues of a block.
            measured: The precision they were measured in; that of ``values`` by default.
        """
        if not values.numel():
            return values
        added = self.of(values)
        damped = values.clamp(min=0) + added
        least = SMALL if added > 0 else max(SMALL, 10 * torch.finfo(measured or values.dtype).eps)
        return torch.where(damped > least * damped.max(), damped.reciprocal(), torch.zeros_like(damped))


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
            part or side that is diagonal.
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
            return self._two_sided(name, part.reshape(-1, *inverse.shape), inverse).flatten(1)
        if name not in self.bases:
            return part * inverse
        basis = self.bases[name].to(part)
        return ((part @ basis.T) * inverse) @ basis

    def _two_sided(self, name: str, found: Tensor, inverse: Tensor) -> Tensor:
        """``Q_S ((Q_S^T G Q_A) * inverse) Q_A^T`` for gradients ``G [m, rows, columns]``."""
        left, right = self.bases.get(f"left.{name}"), self.bases.get(f"right.{name}")
        left, right = (None if side is None else side.to(found) for side in (left, right))
        found = found if left is None else left @ found
        found = (found if right is None else found @ right.T) * inverse
        found = found if left is None else left.T @ found
        return found if right is None else found @ right

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
        device: Where the sums are kept; that of the rows by default.
    """

    def __init__(
        self,
        dimensions: Mapping[str, int],
        *,
        whole: bool = False,
        largest: int = LARGEST,
        device: torch.device | None = None,
    ) -> None:
        self.dimensions = {"all": sum(dimensions.values())} if whole else dict(dimensions)
        self.largest, self.device = largest, device
        self.sums: dict[str, Tensor] = {}
        self.count = 0.0
        for name, size in self.dimensions.items():
            if size > largest:
                log.warning("%s: of its curvature the diagonal is kept: %d entries, more than %d", name, size, largest)

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
            found = found if self.device is None else found.to(self.device)
            self.sums[name] = self.sums[name].add_(found) if name in self.sums else found
        self.count += len(rows) if count is None else count

    def finished(self, damping: Damping, together: Joined = same) -> Blocks:
        """The inverse of the mean; every process has to call it, one without rows too."""
        inverse, bases = {}, {}
        for name, mean in self.mean(together).items():
            if mean.dim() == 1:
                inverse[name] = damping.reciprocal(mean)
                continue
            values, vectors = torch.linalg.eigh(mean.double())
            inverse[name] = damping.reciprocal(values, mean.dtype).to(mean)
            bases[name] = vectors.T.to(mean).contiguous()
        return Blocks(self.dimensions, inverse, bases)

    def mean(self, together: Joined = same) -> dict[str, Tensor]:
        """The second moments of all processes' rows by part, ``[d, d]``, or ``[d]`` of a large one."""
        first = next(iter(self.sums.values()), None)
        place = self.device or (None if first is None else first.device)
        double = first is not None and first.dtype == torch.float64
        told = together(torch.tensor([self.count, double], dtype=torch.float64, device=place)).tolist()
        kind = torch.float64 if told[1] else torch.float32
        found = {}
        for name, size in self.dimensions.items():
            shape = (size, size) if size <= self.largest else (size,)
            own = self.sums[name] if name in self.sums else torch.zeros(shape, dtype=kind, device=place)
            found[name] = together(own) / max(1.0, told[0])
        return found


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
            sides = zip(("left", "right"), among.sides(unit), strict=True)
            bases |= {f"{side}.{unit.name}": vectors for side, vectors in sides if vectors is not None}
    return Blocks({unit.name: unit.size for unit in units}, inverse, bases)
