"""What the updates of all optimisers share: their types, hyperparameters that may be tensors, and smooth corners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
Group = Mapping[str, Any]
Rule = Callable[[Tensor, Tensor, State, Group], tuple[Tensor, State]]
"""(parameter, gradient, state, hyperparameters) -> (parameter, state), out of place."""

Hyper = float | Tensor
"""A hyperparameter: a number, or a 0-dimensional tensor by which the update is differentiated."""


def on(value: Hyper) -> bool:
    """Whether a term takes part. A tensor always does: its value may be 0 while its derivative is not."""
    return isinstance(value, Tensor) or value != 0


def number(value: Hyper) -> float:
    """The value alone, where nothing is differentiated."""
    return float(value.detach() if isinstance(value, Tensor) else value)


def signed(gradient: Tensor, group: Group) -> Tensor:
    """The gradient of what is minimised."""
    return -gradient if group.get("maximize") else gradient


def decayed(parameter: Tensor, gradient: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Parameter and gradient after weight decay: decoupled, it shrinks the former, else it adds to the latter."""
    decay = group["weight_decay"]
    if not on(decay):
        return parameter, gradient
    if group.get("decoupled_weight_decay"):
        return parameter * (1 - group["lr"] * decay), gradient
    return parameter, gradient + decay * parameter


def advanced(state: State, device: torch.device) -> tuple[Tensor, float]:
    """The number of this update, as torch.optim keeps it and as a number."""
    step = state["step"] + 1 if "step" in state else scalar(1.0, device)
    return step, float(step)


def home(parameter: Tensor, group: Group) -> torch.device:
    """Where torch.optim keeps the number of updates: on the host, unless no kernel may wait for the host."""
    on_device = group.get("capturable") or group.get("fused")
    return parameter.device if on_device else torch.device("cpu")


def scalar(value: Hyper, device: torch.device) -> Tensor:
    """A 0-dimensional tensor of the type in which torch.optim keeps steps and the like."""
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    return torch.as_tensor(value, dtype=dtype).to(device)


def exact(value: Tensor) -> Tensor:
    """A kept scalar for arithmetic in double precision, which is Python's and so torch.optim's."""
    return value if value.device.type == "mps" else value.to(torch.float64)  # MPS knows no double precision


def descended(parameter: Tensor, rate: Hyper, direction: Tensor) -> Tensor:
    """``parameter - rate * direction``; where the rate is a number, one kernel, and one for its derivative."""
    if isinstance(rate, Tensor):
        return parameter - rate * direction
    return torch.add(parameter, direction, alpha=-rate)


def kept(state: State, key: str, like: Tensor) -> Tensor:
    """A moment from the state; zero before the first update."""
    found = state.get(key)
    return torch.zeros_like(like) if found is None else found


def moved(before: Tensor, toward: Tensor, weight: Hyper) -> Tensor:
    """The running average after one more value."""
    return before + weight * (toward - before)


def root(square: Tensor) -> Tensor:
    """The square root with slope 0 at 0: a coordinate whose gradient has always been zero stays out of the product.

    What is not a number stays that.
    """
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), square.detach())


def least(value: Hyper, bound: Hyper) -> Hyper:
    """The smaller of two; at a tie with the slope of ``value``."""
    return value if bool(value <= bound) else bound


def largest(value: Hyper, bound: Hyper) -> Hyper:
    """The larger of two; at a tie with the slope of ``value``."""
    return value if bool(value >= bound) else bound
