"""Updates along the gradient itself: SGD with its momenta, and SGD with averaged iterates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim import ASGD, SGD, Optimizer

from betty.backends.torch.updates.common import (
    Group,
    Rule,
    State,
    advanced,
    decayed,
    descended,
    exact,
    kept,
    largest,
    moved,
    on,
    scalar,
    signed,
)


def sgd(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """Gradient descent; with momentum it follows a running sum of gradients."""
    parameter, gradient = decayed(parameter, signed(gradient, group), group)
    if not on(group["momentum"]):
        return descended(parameter, group["lr"], gradient), {}
    before = state.get("momentum_buffer")
    # The first update takes the gradient itself, without dampening, as torch.optim.SGD does.
    buffer = gradient if before is None else group["momentum"] * before + (1 - group["dampening"]) * gradient
    direction = gradient + group["momentum"] * buffer if group["nesterov"] else buffer
    return descended(parameter, group["lr"], direction), {"momentum_buffer": buffer}


def common_rate(rule: Rule, groups: Sequence[Group | None]) -> float | None:
    """The rate, where the update is descent at one rate for all parameters and nothing beside it."""
    group = groups[0] if rule is sgd and groups else None
    if group is None or any(other is not group for other in groups):
        return None
    plain = not (on(group["momentum"]) or on(group["weight_decay"]) or group["maximize"])
    return group["lr"] if plain and not isinstance(group["lr"], Tensor) else None


def asgd(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """Descent at a decreasing rate ``eta``; ``ax`` averages the iterates from update ``t0`` on.

    The rate is the one that the update before has left behind: the learning rate as it was *then*.
    """
    parameter, gradient = decayed(parameter, signed(gradient, group), group)
    device = parameter.device
    after, step = advanced(state, device)
    rate, decay = group["lr"], group["lambd"]
    eta = exact(state["eta"] if "eta" in state else scalar(rate, device))
    result = parameter_after = parameter * (1 - decay * eta) - eta * gradient
    weight = state.get("mu")
    if weight is not None and float(weight.detach()) != 1:
        result = moved(kept(state, "ax", parameter), parameter_after, exact(weight))
    return parameter_after, {
        "step": after,
        "eta": scalar(rate / (1 + decay * rate * step) ** group["alpha"], device),
        "mu": scalar(1 / largest(step - group["t0"], 1.0), device),
        "ax": result,
    }


RULES: dict[type[Optimizer], Rule] = {SGD: sgd, ASGD: asgd}
