"""Ridge regression with a regularisation strength for every feature, and its hypergradient in closed form.

Ten features of scikit-learn's diabetes data, and twenty that are noise. The strengths are chosen such that the
regression does well on validation data; those of the noise should end up large.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor
from torch.utils.data import TensorDataset

FEATURES, NOISE_FEATURES = 10, 20
TRAIN, VALIDATION = 100, 150
Examples = tuple[Tensor, Tensor]
"""Features ``[n, 30]`` and targets ``[n]``."""


@cache
def diabetes(seed: int) -> dict[str, Examples]:
    """Training, validation and test examples; every column has mean 0 and deviation 1 over all 442 patients."""
    features, targets = (torch.from_numpy(array) for array in load_diabetes(return_X_y=True))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(targets), NOISE_FEATURES, generator=generator, dtype=torch.float64)
    columns = standardised(torch.cat([features, noise, targets[:, None]], dim=1))
    rows = torch.randperm(len(targets), generator=generator)
    parts = rows.split([TRAIN, VALIDATION, len(rows) - TRAIN - VALIDATION])
    names = ("train", "validation", "test")
    return {name: (columns[part, :-1], columns[part, -1]) for name, part in zip(names, parts, strict=True)}


def standardised(columns: Tensor) -> Tensor:
    return (columns - columns.mean(dim=0)) / columns.std(dim=0)


def examples(seed: int, part: str) -> TensorDataset:
    return TensorDataset(*diabetes(seed)[part])


def half_squared_error(weights: Tensor, part: Examples) -> Tensor:
    features, targets = part
    return (features @ weights - targets).square().mean() / 2


def ridge_loss(batch: Examples, ridge: Any, regulariser: Any) -> Tensor:
    """The lower loss: 1/2 mean (X w - y)^2 + 1/2 sum exp(log_weight_decay) w^2."""
    weights, decay = ridge.parameters["weights"], regulariser.parameters["log_weight_decay"].exp()
    return half_squared_error(weights, batch) + (decay * weights.square()).sum() / 2


def validation_loss(batch: Examples, ridge: Any) -> Tensor:
    """The upper loss: 1/2 mean (X w - y)^2 on the validation data."""
    return half_squared_error(ridge.parameters["weights"], batch)


def measure(ridge: Any, regulariser: Any, seed: int) -> Mapping[str, Tensor]:
    """Mean squared errors, and the geometric mean of the decay of real features and of noise."""
    weights, log_decay = ridge.parameters["weights"], regulariser.parameters["log_weight_decay"]
    real, noise = log_decay.split([FEATURES, NOISE_FEATURES])
    return {
        "validation_error": squared_error(weights, seed, "validation"),
        "test_error": squared_error(weights, seed, "test"),
        "decay_real": real.mean().exp(),
        "decay_noise": noise.mean().exp(),
    }


def squared_error(weights: Tensor, seed: int, part: str) -> Tensor:
    features, targets = (column.to(weights) for column in diabetes(seed)[part])
    return 2 * half_squared_error(weights, (features, targets))


def hessian(log_decay: Tensor, train: Examples) -> Tensor:
    """The lower loss's second derivative by the weights: X'X / n + diag(exp(log_decay))."""
    features, targets = train
    return features.T @ features / len(targets) + log_decay.exp().diag()


def exact_weights(log_decay: Tensor, train: Examples) -> Tensor:
    """The minimiser of the lower loss, w* = H^-1 X'y / n."""
    features, targets = train
    return torch.linalg.solve(hessian(log_decay, train), features.T @ targets / len(targets))


def exact_hypergradient(log_decay: Tensor, train: Examples, validation: Examples) -> Tensor:
    """The derivative of the validation loss at ``w*`` by ``log_decay``, in closed form.

    The gradient of the lower loss by w is zero at w*. Differentiated by log_decay_j that condition reads

        H dw*/dlog_decay_j + exp(log_decay_j) w*_j e_j = 0,

    with e_j the j-th unit vector; so with v the validation loss's gradient by w at w*, and q = H^-1 v, the
    hypergradient is -exp(log_decay) * w* * q.
    """
    weights = exact_weights(log_decay, train)
    features, targets = validation
    v = features.T @ (features @ weights - targets) / len(targets)
    q = torch.linalg.solve(hessian(log_decay, train), v)
    return -log_decay.exp() * weights * q
