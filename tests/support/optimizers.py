"""Every optimiser that can be unrolled, with every combination of its options."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer


@dataclass(frozen=True)
class OptimizerCase:
    """A class of optimiser and its options."""

    kind: type[Optimizer]
    options: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        shown = [f"{key}={value}" for key, value in self.options if key not in {"lr", "betas", "eps"} and value]
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


def _case(kind: type[Optimizer], **options: Any) -> OptimizerCase:
    return OptimizerCase(kind, tuple(options.items()))


OPTIMIZER_CASES = (*_sgd(), *_adam(Adam), *_adam(AdamW))
