"""Products with the curvature of the whole training loss, without ever holding it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap

from betty.backends.torch.duals import load_formulas
from betty.backends.torch.errors import RunError
from betty.backends.torch.influence.task import Task
from betty.backends.torch.influence.transformed import transformed
from betty.backends.torch.influence.units import Unit

Kind = Literal["gauss_newton", "hessian"]

TOGETHER = 1 << 24
"""Entries of activations' tangents, roughly: vectors that are multiplied at once times parameters."""


class Curvature:
    """The mean Gauss-Newton matrix or Hessian of the losses of all examples, as a map on flat vectors.

    Only the parameters of ``units`` vary, in their order. No graph outlives a batch.

    Args:
        model: The model, taken in evaluation mode.
        task: What it is trained on.
        batches: The training data; gone through once a product.
        units: What varies.
        kind: ``gauss_newton`` (the mean of ``J^T H_l J``, with the Hessian ``H_l`` of an example's loss by the model's
            outputs; never negative) or ``hessian``.

    Raises:
        RunError: ``gauss_newton`` of a task without outputs.
    """

    def __init__(
        self, model: nn.Module, task: Task, batches: Sequence[Any], units: Sequence[Unit], kind: Kind = "gauss_newton"
    ) -> None:
        if kind == "gauss_newton" and task.outputs is None:
            raise RunError(
                "Gauss-Newton products need the model's outputs: expected loss(outputs, targets), or outputs=... "
                "beside a loss of the model and batch, or curvature='hessian'"
            )
        load_formulas()
        self.model, self.task, self.batches, self.units, self.kind = model, task, batches, tuple(units), kind
        known = {name: leaf.detach() for name, leaf in model.named_parameters()}
        names = [name for unit in units for name in unit.parameters]
        self._at = {name: known[name] for name in names}
        self._rest = {name: leaf for name, leaf in known.items() if name not in self._at}
        self.size = sum(unit.size for unit in units)
        self._hessians: dict[int, Tensor] = {}

    def product(self, vectors: Tensor, only: int | None = None) -> Tensor:
        """``H v`` for ``[size]``, or for each row of ``[m, size]``; as many rows at once as memory is meant for.

        Args:
            vectors: What is multiplied.
            only: The place of a batch whose curvature alone is meant; the mean over all by default.
        """
        if vectors.dim() == 1:
            return self.product(vectors.unsqueeze(0), only)[0]
        step = max(1, TOGETHER // max(1, self.size))
        return torch.cat([self._rows(part, only) for part in vectors.split(step)])

    def dense(self) -> Tensor:
        """``[size, size]``, symmetric."""
        first = next(iter(self._at.values()))
        found = self.product(torch.eye(self.size, dtype=first.dtype, device=first.device))
        return (found + found.T) / 2

    def trace(self, seed: int = 0, draws: int = 16) -> float:
        """The sum of eigenvalues, by products with random signs: Hutchinson (1990); exact for the smallest models."""
        first = next(iter(self._at.values()))
        if self.size <= draws:
            return float(self.dense().trace())
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (draws, self.size), generator=generator).to(first) * 2 - 1
        return float((signs * self.product(signs)).sum() / draws)

    def _rows(self, vectors: Tensor, only: int | None) -> Tensor:
        tangents: dict[str, Tensor] = {}
        start = 0
        for unit in self.units:
            tangents |= unit.split(vectors[:, start : start + unit.size])
            start += unit.size
        total: dict[str, Tensor] = {}
        count = 0
        with self._quiet(), transformed():
            for place in range(len(self.batches)) if only is None else [only]:
                part, examples = self._batch(place, self.batches[place], tangents)
                total = {name: total[name] + one for name, one in part.items()} if total else part
                count += examples
        return torch.cat([unit.join(total) for unit in self.units], 1) / count

    def _quiet(self) -> _Evaluating:
        return _Evaluating(self.model)

    def _batch(self, place: int, batch: Any, tangents: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
        one = self._newton(place, batch) if self.kind == "gauss_newton" else self._hessian(batch)
        found: dict[str, Tensor] = vmap(one[0])(tangents)
        return {name: value.detach() for name, value in found.items()}, one[1]

    def _newton(self, place: int, batch: Any) -> tuple[Callable[[Any], Any], int]:
        assert self.task.outputs is not None
        caller = _Called(self.model, self.task.outputs)

        def outputs(at: dict[str, Tensor]) -> Tensor:
            found: Tensor = functional_call(caller, _named({**self._rest, **at}), (batch,))
            return found

        found, back, *_ = vjp(outputs, self._at)
        inner = self._inner(place, found, batch)

        def along(tangent: dict[str, Tensor]) -> dict[str, Tensor]:
            moved: Tensor = jvp(outputs, (self._at,), (tangent,))[1]
            pulled = torch.einsum("nij,nj->ni", inner, moved.flatten(1)).view_as(found)
            slopes: dict[str, Tensor] = back(pulled)[0]
            return slopes

        return along, len(found)

    def _inner(self, place: int, outputs: Tensor, batch: Any) -> Tensor:
        """The Hessians of the examples' losses by the outputs, ``[n, d, d]``: computed once a batch."""
        if place not in self._hessians:
            self._hessians[place] = self.task.curvature(outputs, batch)
        return self._hessians[place]

    def _hessian(self, batch: Any) -> tuple[Callable[[Any], Any], int]:
        caller, counted = _Called(self.model, self.task.losses), []

        def objective(at: dict[str, Tensor]) -> Tensor:
            found: Tensor = functional_call(caller, _named({**self._rest, **at}), (batch,))
            counted.append(len(found))
            return found.sum()

        with torch.no_grad():
            objective(self._at)

        def along(tangent: dict[str, Tensor]) -> dict[str, Tensor]:
            moved: dict[str, Tensor] = jvp(grad(objective), (self._at,), (tangent,))[1]
            return moved

        return along, counted[0]


def _named(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.{name}": leaf for name, leaf in leaves.items()}


class _Called(nn.Module):
    """A function of a model and a batch as a module, so that parameters can be put in the model's place."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, batch: Any) -> Tensor:
        return self.function(self.model, batch)


class _Evaluating:
    """The model in evaluation mode, part by part as it was afterwards."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.modes = {part: part.training for part in self.model.modules()}
        self.model.eval()

    def __exit__(self, *error: object) -> None:
        for part, mode in self.modes.items():
            part.training = mode
