"""A random projection of whole gradients, whose matrix is never held where it is large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from betty.backends.torch.influence.spaces import Space
from betty.backends.torch.influence.units import Gradients, Unit
from betty.backends.torch.random import derived_seed

BLOCK = 1 << 22
"""Entries of the matrix that are made at once."""
HELD = 1 << 24
"""Entries of the matrix of all units up to which it is kept; a larger one is made again for every batch."""
WORD = 64
"""Signs in one number."""


class RandomProjection(Space):
    """The whole gradient by a matrix of random signs, ``±1 / sqrt(dimension)``: inner products are kept in the mean.

    An entry is a function of the seed, the unit's name and its place alone: the same on every device, and in blocks of
    any size.

    Args:
        units: What is projected.
        dimension: Entries of a row.
        seed: Of the signs.

    Reference: Park et al. (2023), arXiv:2303.14186, section 3.1; Achlioptas (2003).
    """

    def __init__(self, units: Sequence[Unit], dimension: int, seed: int) -> None:
        self.units, self.dimension, self.seed = tuple(units), dimension, seed
        self.dimensions = {"all": dimension}
        self._held: dict[str, Tensor] = {}
        self._small = dimension * sum(unit.size for unit in units) <= HELD

    def rows(self, gradients: Gradients) -> Tensor:
        found = [self._unit(gradients.unit(unit), unit) for unit in self.units]
        total = torch.stack(found).sum(0) if found else torch.zeros(gradients.count, self.dimension)
        scaled: Tensor = total * float(self.dimension) ** -0.5
        return scaled

    def _unit(self, found: Tensor, unit: Unit) -> Tensor:
        if self._small:
            known = self._held.get(unit.name)
            if known is None or known.device != found.device or known.dtype != found.dtype:
                known = torch.cat([signs for _, signs in self._blocks(unit, found)])
                self._held[unit.name] = known
            return found @ known
        total = found.new_zeros(len(found), self.dimension)
        for start, signs in self._blocks(unit, found):
            total.addmm_(found[:, start : start + len(signs)], signs)
        return total

    def _blocks(self, unit: Unit, like: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Blocks ``[entries, dimension]`` of the unit's signs, each with the entry at which it begins."""
        step, key = max(1, BLOCK // self.dimension), derived_seed(self.seed, unit.name)
        for start in range(0, unit.size, step):
            yield start, signs(key, start, min(start + step, unit.size), self.dimension, like)


def signs(key: int, start: int, stop: int, dimension: int, like: Tensor) -> Tensor:
    """The rows from ``start`` to ``stop`` of an unbounded random matrix of signs, ``[stop - start, dimension]``.

    The bits are those of SplitMix64 (Steele, Lea and Flood 2014) at the place of each word.
    """
    words = -(-dimension // WORD)
    places = torch.arange(start * words, stop * words, device=like.device)
    bits = _mixed(places * _signed(0x9E3779B97F4A7C15) + _signed(key)).view(torch.uint8).view(-1, words * 8, 1)
    each = (bits >> torch.arange(8, dtype=torch.uint8, device=like.device)) & 1
    return each.flatten(1)[:, :dimension].to(like.dtype) * 2 - 1


def _mixed(words: Tensor) -> Tensor:
    words = (words ^ _shifted(words, 30)) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ _shifted(words, 27)) * _signed(0x94D049BB133111EB)
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, by: int) -> Tensor:
    """To the right, zeros coming in: torch shifts signed numbers, and copies their sign."""
    return (words >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    number %= 1 << 64
    return number - (1 << 64) if number >= 1 << 63 else number
