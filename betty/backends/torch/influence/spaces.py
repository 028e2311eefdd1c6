"""Where per-example gradients live when they are stored: whole, or projected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from betty.backends.torch.influence.factors import Basis
from betty.backends.torch.influence.units import Gradients, Unit
from betty.backends.torch.random import derived_seed
from betty.ir.diagnostics import BettyError, listing, nearest

State = dict[str, Tensor]
Rank = int | Mapping[str, int]
"""Of all units, or by patterns of their names, of which the first that fits counts."""


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
    def random(cls, units: Sequence[Unit], rank: Rank, seed: int, device: torch.device, dtype: torch.dtype) -> LoGra:
        """Orthonormal rows of random directions; at full rank nothing is lost."""
        ranks = ranks_of(units, rank)

        def drawn(unit: Unit, side: str, width: int) -> Tensor:
            rows = min(ranks[unit.name], width)
            return orthonormal(rows, width, derived_seed(seed, unit.name, side)).to(device, dtype)

        matrices = [unit for unit in units if unit.matrix]
        return cls(
            units,
            {unit.name: drawn(unit, "left", unit.rows) for unit in matrices},
            {unit.name: drawn(unit, "right", unit.columns) for unit in matrices},
            _mixed(units, ranks, seed, torch.empty(0, device=device, dtype=dtype)),
        )

    @classmethod
    def leading(cls, units: Sequence[Unit], among: Basis, rank: Rank, seed: int) -> LoGra:
        """The eigenvectors of the largest eigenvalues of each side's second moments: principal components."""
        return cls.chosen(units, among, among.values, rank, seed)

    @classmethod
    def chosen(cls, units: Sequence[Unit], among: Basis, values: Mapping[str, Tensor], rank: Rank, seed: int) -> LoGra:
        """The eigenvectors of either side along which gradients have most curvature.

        Args:
            units: The units.
            among: Eigenvectors of both sides.
            values: The curvature along each pair of them, ``[rows, columns]`` by unit: corrected eigenvalues.
            rank: Kept of each side.
            seed: Of what mixes units that have no sides.
        """
        ranks, left, right = ranks_of(units, rank), {}, {}
        for unit in units:
            if unit.matrix:
                found, sides = values[unit.name], among.sides(unit)
                left[unit.name] = _leading(sides[0], found.sum(1), ranks[unit.name])
                right[unit.name] = _leading(sides[1], found.sum(0), ranks[unit.name])
        first = next(iter(among.values.values()), torch.zeros(0))
        return cls(units, left, right, _mixed(units, ranks, seed, first))


def ranks_of(units: Sequence[Unit], rank: Rank) -> dict[str, int]:
    """The rank of each unit.

    Raises:
        BettyError: A pattern fits no unit, or a unit no pattern.
    """
    if isinstance(rank, int):
        return {unit.name: rank for unit in units}
    names = [unit.name for unit in units]
    for pattern in rank:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = nearest(pattern, names)
            raise BettyError(
                f"rank: no layer is called {pattern!r}: expected names or patterns of {listing(names)}"
                + (f" (did you mean {near!r}?)" if near else "")
            )
    found = {name: next((rank[one] for one in rank if fnmatchcase(name, one)), None) for name in names}
    if missing := [name for name, one in found.items() if one is None]:
        raise BettyError(f"rank: nothing is said of layer {missing[0]!r}: add '*' as the last pattern")
    return {name: one for name, one in found.items() if one is not None}


def _leading(vectors: Tensor | None, values: Tensor, rank: int) -> Tensor:
    """The eigenvectors (rows; the axes by default) of the largest values, ``[rank, width]``."""
    most = values.argsort(descending=True)[:rank]
    if vectors is not None:
        return vectors[most.to(vectors.device)]
    return values.new_zeros(len(most), len(values)).scatter_(1, most.unsqueeze(1), 1.0)


def _mixed(units: Sequence[Unit], ranks: Mapping[str, int], seed: int, like: Tensor) -> dict[str, Tensor]:
    return {
        unit.name: orthonormal(ranks[unit.name] ** 2, unit.size, derived_seed(seed, unit.name)).to(like)
        for unit in units
        if not unit.matrix and unit.size > ranks[unit.name] ** 2
    }


def orthonormal(rows: int, width: int, seed: int) -> Tensor:
    """``[rows, width]`` of random directions at right angles to one another, of length one; float64."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(width, rows, generator=generator, dtype=torch.float64)
    found: Tensor = torch.linalg.qr(drawn).Q
    return found.T.contiguous()
