"""Digits, 40 % of whose training labels are wrong: learn how much to trust each of them.

The classifier is trained on the weighted noisy labels; the weights are chosen such that it does well on a few images
with checked labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

TRAIN, CLASSES = 1350, 10
CLEAN = 3
"""Checked examples of each digit. Drawn without regard to the digit they would miss some of them."""
NOISE = 0.4
"""Part of the training labels that is wrong."""


@dataclass(frozen=True)
class Split:
    """The 1,797 images of scikit-learn's digits, shared out; three sets that have no image in common.

    Args:
        train: Images ``[1350, 64]`` with values from 0 to 1, and their true labels ``[1350]``.
        clean: Three images of each digit, with labels that are known to be right.
        test: The other 417.
        flipped: Which training labels are to be made wrong, ``[1350]``.
    """

    train: tuple[Tensor, Tensor]
    clean: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    flipped: Tensor


@cache
def split(seed: int) -> Split:
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    checked = torch.cat([order[labels[order] == digit][:CLEAN] for digit in range(CLASSES)])
    rest = order[~torch.isin(order, checked)]
    train, clean, test = ((images[part], labels[part]) for part in (rest[:TRAIN], checked, rest[TRAIN:]))
    flipped = torch.randperm(TRAIN, generator=generator) < round(NOISE * TRAIN)
    return Split(train, clean, test, flipped)


def noisy_labels(seed: int, flip: Literal["next", "any"] = "next") -> Tensor:
    """The training labels; a flipped one is the ``next`` digit (9 becomes 0) or ``any`` other one."""
    digits = split(seed)
    labels, shift = digits.train[1], torch.ones(TRAIN, dtype=torch.int64)
    if flip == "any":
        shift = torch.randint(1, CLASSES, (TRAIN,), generator=torch.Generator().manual_seed(seed))
    return torch.where(digits.flipped, (labels + shift) % CLASSES, labels)


def noisy_digits(seed: int, flip: Literal["next", "any"] = "next") -> TensorDataset:
    """Training images, noisy labels, and the place of each example, by which its weight is found."""
    return TensorDataset(split(seed).train[0], noisy_labels(seed, flip), torch.arange(TRAIN))


def clean_digits(seed: int) -> TensorDataset:
    return TensorDataset(*split(seed).clean)


class Classifier(nn.Sequential):
    """A multilayer perceptron with one hidden layer: ``[n, 64]`` pixels to ``[n, 10]`` logits."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, CLASSES))


def weights(weigher: Any) -> Tensor:
    """The weight of every training example, between 0 and 1."""
    return weigher.parameters["logits"].sigmoid()


def weighted_loss(batch: list[Tensor], classifier: Any, weigher: Any) -> Tensor:
    """The lower loss: cross-entropy with the noisy labels, each example with its weight."""
    images, labels, places = batch
    losses = functional.cross_entropy(classifier(images), labels, reduction="none")
    return (weights(weigher)[places] * losses).mean()


def clean_loss(batch: list[Tensor], classifier: Any) -> Mapping[str, Tensor]:
    """The upper loss: cross-entropy with the checked labels. The weights act on it through the classifier alone."""
    images, labels = batch
    logits = classifier(images)
    return {"loss": functional.cross_entropy(logits, labels), "accuracy": correct(logits, labels)}


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """The part of the labels that is predicted."""
    return (logits.argmax(dim=1) == labels).float().mean()


def measure(classifier: Any, weigher: Any, seed: int) -> Mapping[str, Tensor]:
    """Test accuracy, and the mean weight of the training examples with right and with wrong labels."""
    digits, learned = split(seed), weights(weigher)
    (images, labels), flipped = digits.test, digits.flipped.to(learned.device)
    return {
        "accuracy": correct(classifier(images.to(learned.device)), labels.to(learned.device)),
        "weight_clean": learned[~flipped].mean(),
        "weight_flipped": learned[flipped].mean(),
    }
