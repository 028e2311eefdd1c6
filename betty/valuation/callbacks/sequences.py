"""Losses of models in the manner of Hugging Face, an example at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from betty.backends.torch.influence.task import Task
from betty.ir.diagnostics import BettyError, listing

IGNORED = -100
"""Label of positions that do not count."""


def logits(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """The model's logits: ``[n, classes]``, or ``[n, t - 1, words]`` of a causal model, for words that have a next."""
    found: Tensor = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    return found[:, :-1] if causal(found, batch) else found


def causal(outputs: Tensor, batch: Mapping[str, Any]) -> bool:
    """Whether there is one label a position, so that each position predicts the next."""
    labels = batch.get("labels")
    if labels is None:
        raise BettyError(f"a batch has {listing(list(batch))}: expected 'labels' among them")
    return outputs.dim() == 3 and labels.dim() == 2


def targets(outputs: Tensor, batch: Mapping[str, Any]) -> Tensor:
    labels: Tensor = batch["labels"]
    return labels[:, 1:] if outputs.dim() == 3 and labels.shape[1] == outputs.shape[1] + 1 else labels


def losses_of(outputs: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Cross-entropy ``[n]``: of the class, or the mean over the words of a sequence that count; of numbers, the squared
    error, where labels are floating point.
    """
    wanted = targets(outputs, batch)
    if wanted.is_floating_point():
        error: Tensor = outputs.reshape(len(wanted), -1) - wanted.reshape(len(wanted), -1)
        return error.square().mean(1)
    if outputs.dim() == 2:
        return functional.cross_entropy(outputs, wanted, reduction="none")
    each = functional.cross_entropy(outputs.transpose(1, 2), wanted, reduction="none", ignore_index=IGNORED)
    found: Tensor = each.sum(1) / (wanted != IGNORED).sum(1).clamp(min=1)
    return found


def counted(batch: Mapping[str, Any]) -> Tensor:
    """The weight of each position in the loss of its sequence, ``[n, t]``."""
    kept: Tensor = (batch["labels"][:, 1:] != IGNORED).float()
    return kept / kept.sum(1, keepdim=True).clamp(min=1)


def hugging_face(model: nn.Module, batch: Mapping[str, Any]) -> Task:
    """What a model of Hugging Face is trained on, by one of its batches: classes, numbers, or the next word."""
    with torch.no_grad():
        training = model.training
        outputs = model.eval()(**{key: value for key, value in batch.items() if key != "labels"}).logits
        model.train(training)
    floating = batch["labels"].is_floating_point()
    return Task(
        losses=lambda model, batch: losses_of(logits(model, batch), batch),
        outputs=logits,
        losses_of=losses_of,
        likelihood="gaussian" if floating else "categorical",
        scale=2.0 / max(1, outputs.shape[-1]) if floating else 1.0,
        weights=counted if causal(outputs, batch) and not floating else None,
    )
