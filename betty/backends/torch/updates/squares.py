"""Updates by the gradient over the root of past squares: RMSprop, Adagrad, Adadelta."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Adadelta, Adagrad, Optimizer, RMSprop

from betty.backends.torch.updates.common import (
    Group,
    Rule,
    State,
    advanced,
    decayed,
    home,
    kept,
    moved,
    on,
    root,
    signed,
)


def rmsprop(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """The gradient over its running root mean square; ``centered`` subtracts the squared mean under the root."""
    parameter, gradient = decayed(parameter, signed(gradient, group), group)
    alpha = group["alpha"]
    square = alpha * kept(state, "square_avg", parameter) + (1 - alpha) * gradient * gradient
    after = {"step": advanced(state, home(parameter, group))[0], "square_avg": square}
    if group["centered"]:
        after["grad_avg"] = mean = moved(kept(state, "grad_avg", parameter), gradient, 1 - alpha)
        square = square - mean * mean
    direction = gradient / (root(square) + group["eps"])
    if on(group["momentum"]):
        direction = group["momentum"] * kept(state, "momentum_buffer", parameter) + direction
        after["momentum_buffer"] = direction
    return parameter - group["lr"] * direction, after


def adagrad(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """The gradient over the root of the sum of all squares, at a rate that ``lr_decay`` lowers."""
    parameter, gradient = decayed(parameter, signed(gradient, group), group)
    counted, step = advanced(state, home(parameter, group))
    # torch.optim.Adagrad fills its state when it is made; the sum is missing only where someone has emptied that.
    before = state["sum"] if "sum" in state else group["initial_accumulator_value"]
    total = before + gradient * gradient
    rate = group["lr"] / (1 + (step - 1) * group["lr_decay"])
    return parameter - rate * gradient / (root(total) + group["eps"]), {"step": counted, "sum": total}


def adadelta(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """The gradient in units of past updates over past gradients, both as root mean squares."""
    parameter, gradient = decayed(parameter, signed(gradient, group), group)
    rho, eps = group["rho"], group["eps"]
    square = rho * kept(state, "square_avg", parameter) + (1 - rho) * gradient * gradient
    updates = kept(state, "acc_delta", parameter)
    change = root(updates + eps) / root(square + eps) * gradient
    after = {
        "step": advanced(state, home(parameter, group))[0],
        "square_avg": square,
        "acc_delta": rho * updates + (1 - rho) * change * change,
    }
    return parameter - group["lr"] * change, after


RULES: dict[type[Optimizer], Rule] = {RMSprop: rmsprop, Adagrad: adagrad, Adadelta: adadelta}
