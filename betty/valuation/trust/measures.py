"""Correlations between rows of two matrices, and the words for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosines between the last dimensions of two tensors, in float64; NaN where one is zero throughout."""
    one, other = one.double(), other.double()
    found: Tensor = (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))
    return found


def pearson(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlations along the last dimension; NaN where one does not vary."""
    return cosine(_centred(one), _centred(other))


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's rank correlations along the last dimension, equal numbers sharing their mean rank."""
    return pearson(ranks(one), ranks(other))


def ranks(values: Tensor) -> Tensor:
    """Places in ascending order along the last dimension, from 0, in float64; equal numbers share their mean place."""
    ordered = values.contiguous().sort(dim=-1).values
    first = torch.searchsorted(ordered, values.contiguous(), right=False)
    last = torch.searchsorted(ordered, values.contiguous(), right=True) - 1
    return (first + last).double() / 2


def mean(values: Tensor) -> float:
    """The mean of the numbers that are no NaN; NaN without any."""
    return float(values[~values.isnan()].mean())


def strength(correlation: float) -> str:
    """What a correlation is called in a sentence."""
    if math.isnan(correlation):
        return "no"
    size = abs(correlation)
    names = ((0.1, "no"), (0.3, "a weak"), (0.6, "a moderate"), (0.9, "a strong"), (math.inf, "a very strong"))
    word = next(name for bound, name in names if size < bound)
    if correlation < 0 and word != "no":
        return f"{word} negative"
    return word


def _centred(values: Tensor) -> Tensor:
    values = values.double()
    centred = values - values.mean(-1, keepdim=True)
    # What rounding leaves of equal numbers is no variation.
    flat = (values == values[..., :1]).all(-1, keepdim=True)
    return torch.where(flat, 0.0, centred)
