"""The first Betty's definitions of a two-level hypergradient, in plain torch.

With ``v`` the derivative of the upper loss by the lower parameters: the difference of two gradients by the upper's
parameters at ``theta - eps v`` and ``theta + eps v`` (darts), ``alpha`` times a truncated series of ``I - alpha H``
(neumann), and so many steps of conjugate gradients on ``H x = v`` (cg), before the mixed product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tree = tuple[Tensor, ...]
Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Of the lower's and the upper's parameters."""


def hypergradient(method: str, lower: Loss, upper: Loss, theta: Tree, phi: Tree, **options: float) -> Tree:
    """The derivative of the upper's loss by ``phi``: what it is directly, and by way of ``theta``."""
    whole = torch.autograd.grad(upper(theta, phi), (*theta, *phi), allow_unused=True, materialize_grads=True)
    v, direct = whole[: len(theta)], whole[len(theta) :]
    indirect = {"darts": _darts, "neumann": _neumann, "cg": _cg}[method](lower, theta, phi, v, options)
    return tuple(a + b for a, b in zip(direct, indirect, strict=True))


def _darts(lower: Loss, theta: Tree, phi: Tree, v: Tree, options: dict[str, float]) -> Tree:
    eps = options["alpha"] / float(torch.cat([part.flatten() for part in v]).norm())
    sides = []
    for sign in (-1, 1):
        moved = tuple(part + sign * eps * step for part, step in zip(theta, v, strict=True))
        sides.append(torch.autograd.grad(lower(moved, phi), phi))
    return tuple((minus - plus) / (2 * eps) for minus, plus in zip(*sides, strict=True))


def _neumann(lower: Loss, theta: Tree, phi: Tree, v: Tree, options: dict[str, float]) -> Tree:
    slope = torch.autograd.grad(lower(theta, phi), theta, create_graph=True)
    term = total = v
    for _ in range(int(options["iterations"])):
        curved = torch.autograd.grad(slope, theta, term, retain_graph=True)
        term = tuple(a - options["alpha"] * b for a, b in zip(term, curved, strict=True))
        total = tuple(a + b for a, b in zip(total, term, strict=True))
    return _mixed(slope, phi, tuple(options["alpha"] * part for part in total))


def _cg(lower: Loss, theta: Tree, phi: Tree, v: Tree, options: dict[str, float]) -> Tree:
    slope = torch.autograd.grad(lower(theta, phi), theta, create_graph=True)
    x, r, p = tuple(torch.zeros_like(part) for part in v), v, v
    for _ in range(int(options["iterations"])):
        curved = torch.autograd.grad(slope, theta, p, retain_graph=True)
        step = _dot(r, r) / _dot(p, curved)
        x = tuple(a + step * b for a, b in zip(x, p, strict=True))
        after = tuple(a - step * b for a, b in zip(r, curved, strict=True))
        ratio = _dot(after, after) / _dot(r, r)
        r, p = after, tuple(a + ratio * b for a, b in zip(after, p, strict=True))
    return _mixed(slope, phi, x)


def _mixed(slope: Tree, phi: Tree, solved: Tree) -> Tree:
    return tuple(-part for part in torch.autograd.grad(slope, phi, solved))


def _dot(one: Tree, other: Tree) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()
