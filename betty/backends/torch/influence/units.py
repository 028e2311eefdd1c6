"""Per-example gradients of layers, as outer products that are not summed yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Unit:
    """Parameters whose per-example gradient is handled together.

    The gradient of a matrix unit is ``[rows, columns]``, a sum of outer products of what a layer's output is
    differentiated by and of its input; the last column is the bias's where there is one. That of another unit is a
    vector of ``columns`` entries.

    Args:
        name: Path of the module; of a lone parameter, its own qualified name.
        parameters: Qualified names of the parameters, the weight first.
        shapes: Their shapes.
        rows: Outputs of a matrix unit; 1 of a vector unit.
        columns: Inputs of a matrix unit, one more with a bias; entries of a vector unit.
        matrix: Whether it is a matrix unit.
        transposed: Whether the weight is held as ``[inputs, outputs]``.
    """

    name: str
    parameters: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    rows: int
    columns: int
    matrix: bool
    transposed: bool = False

    @property
    def size(self) -> int:
        """Entries of the gradient."""
        return self.rows * self.columns

    @property
    def biased(self) -> bool:
        """Whether the last column of a matrix unit is a bias."""
        return self.matrix and len(self.parameters) > 1

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """``[n, size]`` as ``[n, *shape]`` of each parameter."""
        count = len(flat)
        if not self.matrix:
            sizes = [math.prod(shape) for shape in self.shapes]
            parts = flat.split(sizes, dim=1)
            triples = zip(self.parameters, self.shapes, parts, strict=True)
            return {name: part.reshape(count, *shape) for name, shape, part in triples}
        whole = flat.view(count, self.rows, self.columns)
        weight = whole[:, :, : self.columns - 1] if self.biased else whole
        weight = weight.transpose(1, 2) if self.transposed else weight
        found = {self.parameters[0]: weight.reshape(count, *self.shapes[0])}
        if self.biased:
            found[self.parameters[1]] = whole[:, :, -1].reshape(count, *self.shapes[1])
        return found

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The inverse of :meth:`split`: ``[n, *shape]`` of each parameter as ``[n, size]``."""
        parts = [tensors[name] for name in self.parameters]
        count = len(parts[0])
        if not self.matrix:
            return torch.cat([part.reshape(count, -1) for part in parts], 1)
        weight = (
            parts[0].reshape(count, self.columns - self.biased, self.rows).transpose(1, 2)
            if self.transposed
            else (parts[0].reshape(count, self.rows, self.columns - self.biased))
        )
        if self.biased:
            weight = torch.cat([weight, parts[1].reshape(count, self.rows, 1)], 2)
        return weight.reshape(count, self.size)


@dataclass(frozen=True, eq=False)
class Outer:
    """One use of a matrix unit: for each example the sum over ``t`` of ``left[n, t] right[n, t]^T``.

    Args:
        left: ``[n, t, rows]``, gradients by the layer's output; or, of an embedding, int64 ``[n, t]``: the row.
        right: ``[n, t, columns]``, the layer's input, with a one for the bias.
    """

    left: Tensor
    right: Tensor
    rows: int = 0

    @property
    def indexed(self) -> bool:
        """Whether ``left`` tells rows by their places."""
        return self.left.dim() == 2

    def whole(self) -> Tensor:
        """``[n, rows, columns]``."""
        if self.indexed:
            found = self.right.new_zeros(len(self.left), self.rows, self.right.shape[2])
            return found.scatter_add_(1, self.left.unsqueeze(-1).expand_as(self.right), self.right)
        return torch.einsum("ntr,ntc->nrc", self.left, self.right)

    def projected(self, left: Tensor | None, right: Tensor | None) -> Tensor:
        """``left @ gradient @ right^T``, ``[n, r, s]``, for ``left [r, rows]`` and ``right [s, columns]``."""
        other = self.right if right is None else self.right @ right.T
        if self.indexed:
            if left is None:
                return replace(self, right=other).whole()
            return torch.einsum("ntr,ntc->nrc", left.T[self.left], other)
        own = self.left if left is None else self.left @ left.T
        return torch.einsum("ntr,ntc->nrc", own, other)


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of the examples of a batch.

    Args:
        count: Examples.
        outers: Of each matrix unit that was used, by name, one entry for each use.
        vectors: Of each vector unit, ``[n, size]``.
        weight: 1, or 0 where a pass before this one was of the same examples, whose sum this adds to.
    """

    count: int
    outers: Mapping[str, Sequence[Outer]]
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    weight: float = 1.0

    @property
    def examples(self) -> int:
        """How many examples a mean over several passes of the same examples is to count these as."""
        return round(self.count * self.weight)

    def with_vectors(self, more: Mapping[str, Tensor]) -> Gradients:
        return replace(self, vectors={**self.vectors, **more})

    def unit(self, unit: Unit) -> Tensor:
        """The whole gradients of a unit, ``[n, size]``; zeros where it was not used."""
        if not unit.matrix:
            found = self.vectors.get(unit.name)
            return self._zeros(unit.size) if found is None else found
        return self.projected(unit, None, None).flatten(1)

    def projected(self, unit: Unit, left: Tensor | None, right: Tensor | None) -> Tensor:
        """The gradients of a matrix unit between two projections, ``[n, r, s]``; see :meth:`Outer.projected`."""
        total: Tensor | None = None
        for outer in self.outers.get(unit.name, ()):
            part = outer.projected(left, right)
            total = part if total is None else total + part
        if total is not None:
            return total
        rows, columns = unit.rows if left is None else len(left), unit.columns if right is None else len(right)
        return self._zeros(rows * columns).view(self.count, rows, columns)

    def flat(self, units: Sequence[Unit]) -> Tensor:
        """Whole gradients in the order of units, ``[n, sum of sizes]``."""
        return torch.cat([self.unit(unit) for unit in units], 1) if units else self._zeros(0)

    def _zeros(self, size: int) -> Tensor:
        like = next((outer.right for found in self.outers.values() for outer in found), None)
        like = next(iter(self.vectors.values()), None) if like is None else like
        return torch.zeros(self.count, size) if like is None else like.new_zeros(self.count, size)
