"""Updates that look at a parameter as a matrix: Adafactor and Muon, where this torch has them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, optim
from torch.optim import Optimizer

from betty.backends.torch.updates.common import (
    Group,
    Hyper,
    Rule,
    State,
    advanced,
    decayed,
    home,
    kept,
    largest,
    least,
    moved,
    number,
    root,
    signed,
)

ROUNDED = torch.bfloat16
"""Precision in which torch.optim.Muon orthogonalises."""


def adafactor(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """Second moments of a matrix by rows and columns alone, and steps in proportion to the parameter's own size."""
    gradient = signed(gradient, group)
    smallest, relative = group["eps"]
    smallest = torch.finfo(parameter.dtype).eps if smallest is None else smallest
    counted, step = advanced(state, home(parameter, group))
    size = largest(_mean_norm(parameter), relative) * least(group["lr"], 1 / step**0.5)
    # Decoupled, and after the size has been measured.
    parameter, _ = decayed(parameter, gradient, {**group, "decoupled_weight_decay": True})
    after, square = _factors(gradient, state, step ** group["beta2_decay"], smallest)
    update = gradient * square.clamp(min=smallest * smallest).rsqrt()
    result = parameter - size / largest(_mean_norm(update) / group["d"], 1.0) * update
    return result, {"step": counted, **after}


def _factors(gradient: Tensor, state: State, weight: Hyper, smallest: Hyper) -> tuple[State, Tensor]:
    """The kept second moments after this gradient, and the estimate for every coordinate."""
    square = gradient * gradient
    if gradient.dim() <= 1:
        moment = moved(kept(state, "variance", gradient), square, weight)
        return {"variance": moment}, moment
    rows, columns = square.mean(dim=-1, keepdim=True), square.mean(dim=-2, keepdim=True)
    rows = moved(kept(state, "row_var", rows), rows, weight)
    columns = moved(kept(state, "col_var", columns), columns, weight)
    estimate = rows @ columns / rows.mean(dim=-2, keepdim=True).clamp(min=smallest)
    return {"row_var": rows, "col_var": columns}, estimate


def _mean_norm(tensor: Tensor) -> Tensor:
    length: Tensor = root(tensor.square().sum())
    return length / math.sqrt(tensor.numel())


def muon(parameter: Tensor, gradient: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
    """Momentum whose matrix is brought near an orthogonal one before it is followed.

    The value is that of torch.optim.Muon, which orthogonalises in bfloat16 and is therefore, strictly, constant
    between jumps. The derivative is that of the same iteration without rounding.
    """
    momentum = group["momentum"]
    buffer = moved(kept(state, "momentum_buffer", parameter), gradient, 1 - momentum)
    direction = moved(gradient, buffer, momentum) if group["nesterov"] else buffer
    smooth = orthogonal(direction, group)
    with torch.no_grad():
        jump = rounded(direction.detach(), group).to(smooth.dtype) - smooth.detach()  # detached in forward mode too
    parameter, _ = decayed(parameter, gradient, {**group, "decoupled_weight_decay": True})
    rate = group["lr"] * _ratio(group["adjust_lr_fn"], parameter.shape)
    return parameter - rate * (smooth + jump), {"momentum_buffer": buffer}


def orthogonal(matrix: Tensor, group: Group) -> Tensor:
    """Newton-Schulz iterations that bring all singular values near 1."""
    first, third, fifth = group["ns_coefficients"]
    wide = matrix.T if matrix.size(0) > matrix.size(1) else matrix
    wide = wide / root(wide.square().sum()).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = wide @ wide.T
        wide = first * wide + (third * gram + fifth * gram @ gram) @ wide
    return wide.T if matrix.size(0) > matrix.size(1) else wide


def rounded(matrix: Tensor, group: Group) -> Tensor:
    """The same with the kernels and the precision of torch.optim.Muon, so that the same roundings happen."""
    first, third, fifth = map(number, group["ns_coefficients"])
    wide = (matrix.T if matrix.size(0) > matrix.size(1) else matrix).to(ROUNDED)
    wide = wide / wide.norm().clamp(min=number(group["eps"]))
    for _ in range(group["ns_steps"]):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), wide, beta=first)
    return wide.T if matrix.size(0) > matrix.size(1) else wide


def _ratio(adjust: str | None, shape: torch.Size) -> float:
    if adjust == "match_rms_adamw":
        return 0.2 * math.sqrt(max(shape))
    return math.sqrt(max(1.0, shape[0] / shape[1])) if adjust in {None, "original"} else 1.0


_KNOWN = {"Adafactor": adafactor, "Muon": muon}
RULES: dict[type[Optimizer], Rule] = {
    getattr(optim, name): rule for name, rule in _KNOWN.items() if hasattr(optim, name)
}
