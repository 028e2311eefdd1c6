"""Where per-example gradients live when they are stored: whole, or projected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from betty.backends.torch.influence.factors import Basis
from betty.backends.torch.influence.units import Gradients, Unit
from betty.backends.torch.random import derived_seed

State = dict[str, Tensor]


class Space(ABC):
    """A linear map from the gradients of units to stored rows.

    Attributes:
        dimensions: Entries of a row by unit, in their order; for a projection of all units together, one of ``all``.
    """

    dimensions: Mapping[str, int]

    @property
    def size(self) -> int:
        """Entries of a row."""
        return sum(self.dimensions.values())

    @abstractmethod
    def rows(self, gradients: Gradients) -> Tensor:
        """``[n, size]``."""

    def state(self) -> State:
        """Tensors from which the map can be made again."""
        return {}


class Whole(Space):
    """The gradients themselves."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.units = tuple(units)
        self.dimensions = {unit.name: unit.size for unit in units}

    def rows(self, gradients: Gradients) -> Tensor:
        return gradients.flat(self.units)


class LoGra(Space):
    """Both sides of each layer's gradient projected apart, so that the gradient itself is never formed.

    A unit without two sides is stored whole where it has at most ``rank^2`` entries, and otherwise by that many random
    combinations of them.

    Args:
        units: The units.
        left: ``[r, rows]`` by name of each matrix unit.
        right: ``[s, columns]``.
        mixed: ``[d, size]`` of other units; what is not named is stored whole.

    Reference: Choe et al. (2024), arXiv:2405.13954, section 3.2.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        left: Mapping[str, Tensor],
        right: Mapping[str, Tensor],
        mixed: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.units, self.left, self.right, self.mixed = tuple(units), left, right, dict(mixed or {})
        self.dimensions = {unit.name: self._entries(unit) for unit in units}

    def _entries(self, unit: Unit) -> int:
        if unit.matrix:
            return len(self.left[unit.name]) * len(self.right[unit.name])
        return len(self.mixed[unit.name]) if unit.name in self.mixed else unit.size

    def rows(self, gradients: Gradients) -> Tensor:
        return torch.cat([self._unit(gradients, unit) for unit in self.units], 1)

    def _unit(self, gradients: Gradients, unit: Unit) -> Tensor:
        if unit.matrix:
            return gradients.projected(unit, self.left[unit.name], self.right[unit.name]).flatten(1)
        found = gradients.unit(unit)
        return found @ self.mixed[unit.name].T if unit.name in self.mixed else found

    def state(self) -> State:
        parts = (("left", self.left), ("right", self.right), ("mixed", self.mixed))
        return {f"{side}.{name}": value for side, found in parts for name, value in found.items()}

    @classmethod
    def restored(cls, units: Sequence[Unit], state: State) -> LoGra:
        """The space of a saved state."""
        sides: dict[str, dict[str, Tensor]] = {"left": {}, "right": {}, "mixed": {}}
        for key, value in state.items():
            side, _, name = key.partition(".")
            sides[side][name] = value
        return cls(units, sides["left"], sides["right"], sides["mixed"])

    @classmethod
    def random(cls, units: Sequence[Unit], rank: int, seed: int, device: torch.device, dtype: torch.dtype) -> LoGra:
        """Orthonormal rows of random directions; at full rank nothing is lost."""

        def drawn(unit: Unit, side: str, rows: int, width: int) -> Tensor:
            return orthonormal(min(rows, width), width, derived_seed(seed, unit.name, side)).to(device, dtype)

        matrices = [unit for unit in units if unit.matrix]
        return cls(
            units,
            {unit.name: drawn(unit, "left", rank, unit.rows) for unit in matrices},
            {unit.name: drawn(unit, "right", rank, unit.columns) for unit in matrices},
            _mixed(units, rank, seed, device, dtype),
        )

    @classmethod
    def leading(cls, units: Sequence[Unit], among: Basis, rank: int, seed: int) -> LoGra:
        """The eigenvectors of the largest eigenvalues of each side's second moments: principal components."""
        first = next(iter(among.left.values()), torch.zeros(0))
        return cls(
            units,
            {name: vectors[-rank:] for name, vectors in among.left.items()},
            {name: vectors[-rank:] for name, vectors in among.right.items()},
            _mixed(units, rank, seed, first.device, first.dtype),
        )

    @classmethod
    def chosen(cls, units: Sequence[Unit], among: Basis, values: Mapping[str, Tensor], rank: int, seed: int) -> LoGra:
        """The eigenvectors of either side along which gradients have most curvature, by corrected eigenvalues."""
        first = next(iter(among.left.values()), torch.zeros(0))
        left = {name: among.left[name][_most(found.sum(1), rank)] for name, found in values.items()}
        right = {name: among.right[name][_most(found.sum(0), rank)] for name, found in values.items()}
        return cls(units, left, right, _mixed(units, rank, seed, first.device, first.dtype))


def _most(values: Tensor, rank: int) -> Tensor:
    return values.argsort(descending=True)[:rank]


def _mixed(units: Sequence[Unit], rank: int, seed: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    wide = [unit for unit in units if not unit.matrix and unit.size > rank**2]
    return {
        unit.name: orthonormal(rank**2, unit.size, derived_seed(seed, unit.name)).to(device, dtype) for unit in wide
    }


def orthonormal(rows: int, width: int, seed: int) -> Tensor:
    """``[rows, width]`` of random directions at right angles to one another, of length one; float64."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(width, rows, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.T.contiguous()


BLOCK = 1 << 22
"""Entries of a random matrix that are held at once."""


class RandomProjection(Space):
    """The whole gradient by a matrix of random signs, which is drawn again in blocks at each use.

    Inner products are kept in the mean: entries are ``±1 / sqrt(dimension)``.

    Reference: Park et al. (2023), arXiv:2303.14186, section 3.1.
    """

    def __init__(self, units: Sequence[Unit], dimension: int, seed: int) -> None:
        self.units, self.dimension, self.seed = tuple(units), dimension, seed
        self.dimensions = {"all": dimension}

    def rows(self, gradients: Gradients) -> Tensor:
        total: Tensor | None = None
        for unit in self.units:
            found = gradients.unit(unit)
            for start, signs in _signs(unit, self.dimension, self.seed, found):
                part = found[:, start : start + len(signs)] @ signs
                total = part if total is None else total + part
        assert total is not None
        return total / self.dimension**0.5


def _signs(unit: Unit, dimension: int, seed: int, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks ``[entries, dimension]`` of random signs, each with the entry at which it begins."""
    step = max(1, BLOCK // dimension)
    for start in range(0, unit.size, step):
        generator = torch.Generator().manual_seed(derived_seed(seed, unit.name, str(start)))
        drawn = torch.randint(0, 2, (min(step, unit.size - start), dimension), generator=generator, dtype=torch.int8)
        yield start, drawn.to(like) * 2 - 1
