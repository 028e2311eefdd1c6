"""Every optimiser that can be unrolled, with every combination of its options."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim import ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from betty.backends.torch.updates import matrices

D = torch.float64
COMMON = {
    ("betas", tuple),
    ("t0", int),
    *((key, float) for key in ("lr", "eps", "alpha", "rho", "lambd", "momentum_decay", "d")),
}
"""Options that an optimiser has the same in all of its cases; ids leave them out."""


@dataclass(frozen=True)
class OptimizerCase:
    """A class of optimiser and its options."""

    kind: type[Optimizer]
    options: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        shown = [f"{key}={value}" for key, value in self.options if value and (key, type(value)) not in COMMON]
        return ",".join([self.kind.__name__, *shown])

    def make(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        return self.kind(parameters, **dict(self.options))


def _sgd() -> Iterator[OptimizerCase]:
    heavy: dict[str, Any] = {"momentum": 0.8}
    kinds: list[dict[str, Any]] = [{}, heavy, {**heavy, "dampening": 0.3}, {**heavy, "nesterov": True}]
    for kind, weight_decay, maximize in itertools.product(kinds, (0.0, 0.1), (False, True)):
        yield _case(SGD, lr=0.3, **kind, weight_decay=weight_decay, maximize=maximize)


def _adam(kind: type[Optimizer]) -> Iterator[OptimizerCase]:
    # A large eps keeps the second derivatives of the first updates within reach of finite differences.
    common: dict[str, Any] = {"lr": 0.05, "betas": (0.7, 0.8), "eps": 1e-3}
    for weight_decay, amsgrad, maximize in itertools.product((0.0, 0.1), (False, True), (False, True)):
        yield _case(kind, **common, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize)
    if kind is Adam and "decoupled_weight_decay" in inspect.signature(Adam).parameters:  # since torch 2.7
        yield _case(kind, **common, weight_decay=0.1, decoupled_weight_decay=True)
        yield _case(kind, **common, weight_decay=0.1, decoupled_weight_decay=True, amsgrad=True, maximize=True)


def _relatives() -> Iterator[OptimizerCase]:
    """Adam's: RAdam with a ``beta2`` for which the first updates follow the plain mean, and later ones do not."""
    common: dict[str, Any] = {"lr": 0.05, "betas": (0.7, 0.9), "eps": 1e-3}
    for kind, more in ((NAdam, {"momentum_decay": 0.3}), (RAdam, {})):
        yield from _combined(kind, {**common, **more}, weight_decay=(0.0, 0.1), maximize=(False, True))
        yield from _combined(
            kind, {**common, **more, "decoupled_weight_decay": True}, weight_decay=(0.1,), maximize=(False, True)
        )
    yield from _combined(Adamax, common, weight_decay=(0.0, 0.1), maximize=(False, True))


def _of_squares() -> Iterator[OptimizerCase]:
    both: dict[str, Any] = {"weight_decay": (0.0, 0.1), "maximize": (False, True)}
    mean: dict[str, Any] = {"lr": 0.02, "alpha": 0.8, "eps": 1e-2}
    yield from _combined(RMSprop, mean, momentum=(0.0, 0.6), centered=(False, True), **both)
    total: dict[str, Any] = {"lr": 0.1, "eps": 1e-2}
    yield from _combined(Adagrad, total, lr_decay=(0.0, 0.2), initial_accumulator_value=(0.0, 0.05), **both)
    yield from _combined(Adadelta, {"lr": 0.5, "rho": 0.8, "eps": 1e-2}, **both)


def _others() -> Iterator[OptimizerCase]:
    both: dict[str, Any] = {"weight_decay": (0.0, 0.1), "maximize": (False, True)}
    yield from _combined(ASGD, {"lr": 0.3, "lambd": 0.1, "alpha": 0.6, "t0": 2}, **both)
    if hasattr(optim, "Adafactor"):
        # At d = 1 the first update of a vector lies on the kink of the clipping.
        yield from _combined(optim.Adafactor, {"lr": 0.1, "d": 1.05}, eps=((None, 1e-3), (1e-2, 0.5)), **both)


def _muon() -> Iterator[OptimizerCase]:
    if hasattr(optim, "Muon"):
        adjustments = (None, "match_rms_adamw")
        common: dict[str, Any] = {"lr": 0.05, "momentum": 0.8}
        yield from _combined(
            optim.Muon, common, nesterov=(False, True), weight_decay=(0.0, 0.1), adjust_lr_fn=adjustments
        )


def _combined(kind: type[Optimizer], common: dict[str, Any], **choices: tuple[Any, ...]) -> Iterator[OptimizerCase]:
    for values in itertools.product(*choices.values()):
        yield _case(kind, **common, **dict(zip(choices, values, strict=True)))


def _case(kind: type[Optimizer], **options: Any) -> OptimizerCase:
    return OptimizerCase(kind, tuple(options.items()))


OPTIMIZER_CASES = (*_sgd(), *_adam(Adam), *_adam(AdamW), *_relatives(), *_of_squares(), *_others())
"""Those that take parameters of any shape."""
MATRIX_CASES = tuple(_muon())
"""Those that take matrices alone."""
EVERY_CASE = OPTIMIZER_CASES + MATRIX_CASES


def leaves_for(case: OptimizerCase, dtype: torch.dtype = D) -> list[nn.Parameter]:
    """A wide and a tall matrix, and a vector where the optimiser takes one."""
    shapes = [(2, 3), (3, 2)] if case in MATRIX_CASES else [(2, 3), (3, 2), (3,)]
    return [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]


def unrounded(patch: pytest.MonkeyPatch) -> None:
    """Let Muon orthogonalise in double precision, in torch.optim too: through singular values instead of products."""
    if MATRIX_CASES:
        patch.setattr(matrices, "ROUNDED", D)
        patch.setattr("torch.optim._muon._zeropower_via_newtonschulz", _by_singular_values)


def _by_singular_values(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm().clamp(min=eps)
    for _ in range(steps):
        values = sum((part * values**power for part, power in zip(coefficients, (1, 3, 5), strict=True)), 0 * values)
    return left @ torch.diag(values) @ right
