"""Digits, 10 % of whose training labels are wrong: find them, and see which examples explain the test errors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

TRAIN, CLASSES = 1350, 10
NOISE = 0.1
"""Part of the training labels that is wrong."""


@dataclass(frozen=True)
class Split:
    """The 1,797 images of scikit-learn's digits in two parts.

    Args:
        train: Images ``[1350, 64]`` with values from 0 to 1, and their labels as they are trained on ``[1350]``.
        test: The other 447 with their true labels.
        flipped: Which training labels are wrong, ``[1350]``.
        truth: The true training labels, ``[1350]``.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    flipped: Tensor
    truth: Tensor


@cache
def split(seed: int) -> Split:
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    train, test = order[:TRAIN], order[TRAIN:]
    flipped = torch.randperm(TRAIN, generator=generator) < round(NOISE * TRAIN)
    other = torch.randint(1, CLASSES, (TRAIN,), generator=generator)
    truth = labels[train]
    noisy = torch.where(flipped, (truth + other) % CLASSES, truth)
    return Split((images[train], noisy), (images[test], labels[test]), flipped, truth)


def digits(seed: int) -> TensorDataset:
    """The training data, wrong labels included."""
    return TensorDataset(*split(seed).train)


def test_set(seed: int) -> TensorDataset:
    return TensorDataset(*split(seed).test)


class Classifier(nn.Sequential):
    """A multilayer perceptron: ``[n, 64]`` pixels to ``[n, 10]`` logits."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, CLASSES))


def logits(batch: list[Tensor], classifier: Any) -> Tensor:
    found: Tensor = classifier(batch[0])
    return found


def losses(batch: list[Tensor], classifier: Any) -> Tensor:
    """The cross-entropy of every example of the batch, ``[n]``."""
    return functional.cross_entropy(logits(batch, classifier), batch[1], reduction="none")
