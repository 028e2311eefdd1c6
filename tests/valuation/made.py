"""Gradients of made-up layers, in double precision, for tests of linear algebra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch.influence.units import Gradients, Outer, Unit


@dataclass(frozen=True)
class Layers:
    """What gradients are made of.

    Args:
        shapes: ``(rows, columns)`` of matrix units.
        vectors: Entries of vector units.
        examples: How many.
        positions: Of each use of a matrix unit, of which it has as many.
        seed: Of the numbers.
    """

    shapes: tuple[tuple[int, int], ...]
    vectors: tuple[int, ...]
    examples: int
    positions: tuple[int, ...]
    seed: int

    @property
    def units(self) -> tuple[Unit, ...]:
        matrices = [matrix(f"layers.{place}", *shape) for place, shape in enumerate(self.shapes)]
        return (*matrices, *(vector(f"norms.{place}", size) for place, size in enumerate(self.vectors)))

    def gradients(self) -> Gradients:
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        outers = {
            unit.name: [
                Outer(normal(self.examples, length, unit.rows), normal(self.examples, length, unit.columns))
                for length in self.positions
            ]
            for unit in self.units
            if unit.matrix
        }
        return Gradients(
            self.examples,
            outers,
            {unit.name: normal(self.examples, unit.size) for unit in self.units if not unit.matrix},
        )


def matrix(name: str, rows: int, columns: int) -> Unit:
    return Unit(name, (f"{name}.weight",), ((rows, columns),), rows, columns, True)


def vector(name: str, size: int) -> Unit:
    return Unit(name, (f"{name}.weight",), ((size,),), 1, size, False)


def part(gradients: Gradients, start: int, stop: int) -> Gradients:
    """Some of the examples."""
    outers = {
        name: [Outer(use.left[start:stop], use.right[start:stop], use.rows) for use in uses]
        for name, uses in gradients.outers.items()
    }
    return Gradients(stop - start, outers, {name: found[start:stop] for name, found in gradients.vectors.items()})


def embedded(unit: Unit, places: Tensor, slopes: Tensor) -> Gradients:
    """Gradients of an embedding: ``places [n, t]`` and what they are differentiated by, ``[n, t, columns]``."""
    return Gradients(len(places), {unit.name: [Outer(places, slopes, unit.rows)]})


def second(rows: Tensor) -> Tensor:
    """The mean of outer products."""
    return rows.T @ rows / len(rows)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(1 + expected.abs().max()))


sides = st.integers(1, 5)


def layers(*, uses: Sequence[tuple[int, ...]] = ((1,), (3,), (2, 4)), vectors: int = 2) -> st.SearchStrategy[Layers]:
    """Layers with gradients of any kind; ``uses`` are the positions of each use."""
    return st.builds(
        Layers,
        shapes=st.lists(st.tuples(sides, sides), min_size=1, max_size=3).map(tuple),
        vectors=st.lists(sides, max_size=vectors).map(tuple),
        examples=st.integers(2, 9),
        positions=st.sampled_from(list(uses)),
        seed=st.integers(0, 10_000),
    )
