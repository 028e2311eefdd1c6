"""What a model is trained on: one loss for each example, and what its outputs stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from betty.backends.torch.errors import RunError


@dataclass(frozen=True, eq=False)
class Task:
    """The losses of examples, and of what distribution the outputs are the logits or the mean.

    Args:
        losses: ``(model, batch) -> [n]``; ``[n, t]`` where tokens are valued.
        outputs: ``(model, batch) -> [n, ..., d]``: logits or means.
        losses_of: ``(outputs, batch) -> [n]``, of which ``losses`` is the composition with ``outputs``.
        likelihood: Of the outputs.
        scale: Of a gaussian: the loss is ``scale * |f - y|^2 / 2``, summed over outputs and weighted positions.
        weights: ``batch -> [n, t]``: how much each position counts in the loss of its example (masks, means); ones
            where there is none.
    """

    losses: Callable[[nn.Module, Any], Tensor]
    outputs: Callable[[nn.Module, Any], Tensor] | None = None
    losses_of: Callable[[Tensor, Any], Tensor] | None = None
    likelihood: Literal["categorical", "gaussian", "bernoulli"] | None = None
    scale: float = 1.0
    weights: Callable[[Any], Tensor] | None = None

    def sampled(self, model: nn.Module, batch: Any, generator: Generator | None = None) -> Tensor:
        r"""Losses ``[n]`` for labels that are drawn from the model: the mean of their gradients' outer products is the
        true Fisher information, which for these likelihoods is the Gauss-Newton matrix.

        A position of weight ``w`` has a Hessian ``w`` times that of its likelihood, hence a loss of ``sqrt(w)`` times
        it; labels of different positions are drawn apart, so that their products vanish in the mean.

        Raises:
            RunError: The task has no likelihood.
        """
        if self.likelihood is None or self.outputs is None:
            raise RunError(
                "labels cannot be drawn from the model: expected likelihood=... (and outputs=... beside a loss of the "
                "model and batch), or fisher='empirical'"
            )
        found = self.outputs(model, batch)
        each: Tensor = _drawn(_wide(found), self.likelihood, generator) * math.sqrt(self.scale)
        if self.weights is not None:
            each = each * self.weights(batch).to(each).sqrt()
        return each.flatten(1).sum(1) if each.dim() > 1 else each

    def pseudo(self, outputs: Tensor, batch: Any) -> Tensor:
        """Columns ``[k, n, ..., d]`` of a square root of the Hessian of each example's loss by its outputs.

        ``sum_k c_k c_k^T`` is the Hessian; gradients of ``<c_k, outputs>`` have the exact Gauss-Newton matrix for their
        sum of outer products. Negative eigenvalues, which a convex loss has not, are left out.

        Raises:
            RunError: The task has no losses of outputs.
        """
        hessian = self.curvature(outputs, batch)
        values, vectors = torch.linalg.eigh(hessian.double())
        columns: Tensor = vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
        found: Tensor = columns.movedim(-1, 0).reshape(-1, *outputs.shape).to(outputs.dtype)
        return found

    def curvature(self, outputs: Tensor, batch: Any) -> Tensor:
        """The Hessian of each example's loss by its outputs, all of its positions together, ``[n, d, d]``."""
        if self.losses_of is None and self.likelihood is None:
            raise RunError(
                "the losses are no function of outputs: expected loss(outputs, targets), or likelihood=... and "
                "outputs=... beside a loss of the model and batch, or curvature='hessian'"
            )
        flat = outputs.detach().flatten(1)
        if self.likelihood is not None:
            wide = _wide(outputs.detach())
            return _information(wide, self.likelihood, self._counted(wide, batch))
        count, size = flat.shape
        rows = []
        leaf = flat.clone().requires_grad_()
        assert self.losses_of is not None
        (slope,) = torch.autograd.grad(self.losses_of(leaf.view_as(outputs), batch).sum(), leaf, create_graph=True)
        for place in range(size):
            (row,) = torch.autograd.grad(slope[:, place].sum(), leaf, retain_graph=True, materialize_grads=True)
            rows.append(row)
        return torch.stack(rows, 1).view(count, size, size)

    def _counted(self, outputs: Tensor, batch: Any) -> Tensor:
        """The factor of each position's likelihood, ``[n, ...]``."""
        shape = outputs.shape if self.likelihood == "bernoulli" else outputs.shape[:-1]
        ones = outputs.new_full(shape, self.scale)
        return ones if self.weights is None else ones * self.weights(batch).to(ones)


def _wide(outputs: Tensor) -> Tensor:
    """``[n, ..., d]``, also of a model that gives one number for each example."""
    return outputs.unsqueeze(-1) if outputs.dim() == 1 else outputs


def _drawn(outputs: Tensor, likelihood: str, generator: Generator | None) -> Tensor:
    """The negative log-likelihood of a label drawn for each position, ``[n, ...]``."""
    fixed = outputs.detach().float()
    if likelihood == "categorical":
        chances = functional.softmax(fixed, -1)
        labels = torch.multinomial(chances.flatten(0, -2).cpu(), 1, generator=generator).to(outputs.device)
        picked = functional.cross_entropy(outputs.flatten(0, -2), labels.flatten(), reduction="none")
        return picked.view(outputs.shape[:-1])
    if likelihood == "bernoulli":
        chances = fixed.sigmoid()
        ones = torch.rand(chances.shape, generator=generator).to(chances) < chances
        return functional.binary_cross_entropy_with_logits(outputs, ones.to(outputs.dtype), reduction="none")
    noise = torch.randn(outputs.shape, generator=generator).to(outputs)
    return (0.5 * (outputs - (outputs.detach() + noise)).square()).sum(-1)


def _information(outputs: Tensor, likelihood: str, counted: Tensor) -> Tensor:
    """The Fisher information of each example's outputs, ``[n, d, d]`` with all of its positions' entries."""
    count = len(outputs)
    if likelihood == "bernoulli":
        chances = outputs.sigmoid()
        return torch.diag_embed((counted * chances * (1 - chances)).flatten(1))
    size = outputs.shape[-1]
    if likelihood == "categorical":
        chances = functional.softmax(outputs, -1)
        each = torch.diag_embed(chances) - chances.unsqueeze(-1) * chances.unsqueeze(-2)
    else:
        each = torch.eye(size, dtype=outputs.dtype, device=outputs.device).expand(*outputs.shape, size)
    blocks = (each * counted.unsqueeze(-1).unsqueeze(-1)).reshape(count, -1, size, size)
    if blocks.shape[1] == 1:
        return blocks[:, 0]
    return torch.stack([torch.block_diag(*one) for one in blocks])
