r"""How an optimiser reacts to its gradient: the adaptation matrix of SAMA.

An optimiser moves :math:`\theta' = \theta - u(g, s)`, with the gradient :math:`g` and a state :math:`s`. What the
lower reaches is a fixed point of *that* map, so that the implicit function theorem on :math:`u = 0` has the
optimiser's reaction in it, :math:`\partial u / \partial x = (\partial u / \partial g) \, \partial g / \partial x`.
With the identity in place of the inverse, the hypergradient of an upper :math:`x` is then, up to the learning rate,

.. math:: -\Big(\frac{\partial g}{\partial x}\Big)^\top \Big(\frac{\partial u}{\partial g}\Big)^\top v,
   \qquad v = \frac{\partial L_{up}}{\partial \theta}.

For Adam the matrix is diagonal, and with both bias corrections

.. math:: \frac{1}{\gamma} \frac{\partial u}{\partial g} = \frac{1 - \beta_1}{1 - \beta_1^t} \frac{1}{d}
   - \hat m \frac{1 - \beta_2}{1 - \beta_2^t} \frac{g}{\sqrt{\hat v} \, d^2}, \qquad d = \sqrt{\hat v} + \epsilon.

Any other optimiser is differentiated through its own update. The state counts as constant: that it depends on earlier
gradients, and these on :math:`x`, is left out, as in the paper. :func:`~betty.backends.torch.updates.rule_for` is
there for those who want all of it.

Reference: Choe, Mehta, Ahn, Neiswanger, Xie, Strubell and Xing (2023), *Making Scalable Meta Learning Practical*,
arXiv:2310.05674, section 3.2 and its matrix for Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from betty.backends.torch.errors import RunError
from betty.backends.torch.tree import Tree, copy, detach
from betty.backends.torch.updates import RULES, Group, Rule, State, rule_for
from betty.backends.torch.updates.common import decayed, exact, on, root, signed
from betty.ir.diagnostics import Diagnostic

IDLE_RATE = 1e-6
"""Stands in for a learning rate of 0, as at the start of a warm-up: the quotient by the rate has a limit there."""


@dataclass(frozen=True, eq=False)
class LastUpdate:
    """What of a problem's last update its adaptation needs, parameter by parameter."""

    groups: tuple[Group | None, ...]
    """Hyperparameters as they were; ``None`` for a parameter that the optimiser does not hold."""
    first: tuple[bool, ...]
    """Whether the optimiser has kept nothing before."""
    gradient: Tree = ()
    """What the optimiser got; for Adam and AdamW what their moments got, with sign and weight decay. None for SGD."""
    parameters: Tree = ()
    states: tuple[State, ...] = ()
    """Copies from before the update, for optimisers that are differentiated through their rule; else empty."""


def remember(optimizer: Optimizer, parameters: Tree, gradient: Tree) -> LastUpdate:
    """What to keep of an update, just before the optimiser makes it with ``gradient`` (clipped and averaged).

    Keeps nothing of the size of the parameters for SGD, at most the gradient for Adam and AdamW, and the gradient,
    the parameters and the optimiser's state for others.

    Raises:
        RunError: The optimiser has no differentiable update.
    """
    if rule_for(optimizer) is None:
        raise _no_rule(optimizer)
    holders = {id(leaf): group for group in map(_still, optimizer.param_groups) for leaf in group["params"]}
    groups = tuple(holders.get(id(leaf)) for leaf in parameters)
    states = tuple(_state(optimizer, leaf) for leaf in parameters)
    first = tuple(not state for state in states)
    if isinstance(optimizer, SGD):
        return LastUpdate(groups, first)
    if isinstance(optimizer, Adam | AdamW):
        return LastUpdate(groups, first, _averaged(parameters, gradient, groups, isinstance(optimizer, AdamW)))
    kept = tuple({key: value.clone() for key, value in state.items()} for state in states)
    return LastUpdate(groups, first, detach(gradient), copy(parameters), kept)


@torch.no_grad()
def adapt(last: LastUpdate, optimizer: Optimizer, parameters: Tree, v: Tree) -> Tree:
    r""":math:`(\partial u / \partial g)^\top v / \gamma` at the last update, :math:`\gamma` its learning rate.

    ``v`` itself for plain SGD, and for parameters that the optimiser does not hold; ``-v`` for plain SGD that
    maximises.

    Args:
        last: Kept by :func:`remember` before that update.
        optimizer: The same, after the update: Adam's moments are read from its state.
        parameters: The same parameters, in the order of ``last`` and of ``v``.
        v: A tree like the parameters.

    Raises:
        RunError: The optimiser has no differentiable update.
    """
    rule = rule_for(optimizer)
    if rule is None:
        raise _no_rule(optimizer)
    reaction = _of_rule(rule)
    if isinstance(optimizer, SGD):
        reaction = _of_sgd
    elif isinstance(optimizer, Adam | AdamW):
        reaction = _of_adam(optimizer, parameters)
    return tuple(
        part if group is None else reaction(last, index, group, part)
        for index, (part, group) in enumerate(zip(v, last.groups, strict=True))
    )


@torch.no_grad()
def diagonal(last: LastUpdate, optimizer: Optimizer, parameters: Tree) -> Tree:
    """By what the optimiser divides each coordinate now: a preconditioner for curvature, positive everywhere.

    The root of the second moments and ``eps`` for Adam and its relatives, RMSprop and Adagrad, over the root of past
    updates for Adadelta; ones for optimisers that divide by nothing of the kind, and before the first update.
    """
    divide = DIVISORS.get(type(optimizer))
    return tuple(
        torch.ones_like(leaf) if divide is None or group is None or not state else _positive(divide(state, group))
        for leaf, group, state in zip(
            parameters, last.groups, (_state(optimizer, leaf) for leaf in parameters), strict=True
        )
    )


def decay_of(optimizer: Optimizer, parameters: Tree) -> tuple[float, ...]:
    """Weight decay by parameter, where the optimiser makes it part of the gradient; empty where there is none.

    An optimiser that maximises ``L`` descends ``-L`` with the same decay, so that the sign is that of ``L`` turned
    around. Decoupled decay (AdamW, Adafactor, Muon) is not the gradient of anything that the optimiser descends, and
    counts as none.
    """
    if isinstance(optimizer, (AdamW, *DECOUPLED)):
        return ()
    if not any(group.get("weight_decay") for group in optimizer.param_groups):
        return ()
    rates = {
        id(leaf): 0.0
        if group.get("decoupled_weight_decay")
        else float(group.get("weight_decay", 0.0) or 0.0) * (-1 if group.get("maximize") else 1)
        for group in optimizer.param_groups
        for leaf in group["params"]
    }
    found = tuple(rates.get(id(leaf), 0.0) for leaf in parameters)
    return found if any(found) else ()


DECOUPLED = tuple(getattr(torch.optim, name) for name in ("Adafactor", "Muon") if hasattr(torch.optim, name))
"""Optimisers beside AdamW whose weight decay is no part of the gradient; older versions of torch lack some."""


def _no_rule(optimizer: Optimizer) -> RunError:
    name = type(optimizer).__name__
    known = ", ".join(sorted(kind.__name__ for kind in RULES))
    message = f"{name} has no differentiable update, by which a response could be adapted to it"
    return RunError([Diagnostic(code="optimizer", field=(), message=message, expected=f"one of {known}")])


def _still(group: Group) -> Group:
    """The hyperparameters of a group as they are now: schedulers and uppers may change them."""
    return {key: value if key == "params" else _constant(value) for key, value in group.items()}


def _constant(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_constant(part) for part in value)
    return value.detach().clone() if isinstance(value, Tensor) else value


def _state(optimizer: Optimizer, leaf: Tensor) -> State:
    found = optimizer.state.get(leaf, {})
    return {key: value.detach() for key, value in found.items() if isinstance(value, Tensor)}


@torch.no_grad()
def _averaged(parameters: Tree, gradient: Tree, groups: tuple[Group | None, ...], decoupled: bool) -> Tree:
    """What goes into Adam's moments: the gradient with its sign, and with weight decay where that is part of it."""

    def one(leaf: Tensor, part: Tensor, group: Group | None) -> Tensor:
        if group is None:
            return part
        part = signed(part, group)
        return part if decoupled or group.get("decoupled_weight_decay") else decayed(leaf, part, group)[1]

    return detach(tuple(map(one, parameters, gradient, groups)))


Reaction = Callable[[LastUpdate, int, Group, Tensor], Tensor]
"""(update, position of the parameter, its hyperparameters, ``v``) -> ``(du/dg)^T v / lr``."""


def _of_sgd(last: LastUpdate, index: int, group: Group, v: Tensor) -> Tensor:
    """The share of the gradient in the direction: of the buffer, and with Nesterov's look ahead of both."""
    factor: Any = 1.0
    if on(group["momentum"]):
        factor = 1.0 if last.first[index] else 1 - group["dampening"]
        factor = 1 + group["momentum"] * factor if group["nesterov"] else factor
    return signed(v * factor, group)


def _of_adam(optimizer: Optimizer, parameters: Tree) -> Reaction:
    """The closed form; second moments are those by which the update has divided, with amsgrad the largest."""

    def reaction(last: LastUpdate, index: int, group: Group, v: Tensor) -> Tensor:
        state, gradient = _state(optimizer, parameters[index]), last.gradient[index]
        beta1, beta2 = group["betas"]
        first, second = _corrections(state, group)
        used = state.get("max_exp_avg_sq", state["exp_avg_sq"])
        deviation = root(used / second)
        divisor = deviation + group["eps"]
        slope = (1 - beta2) / second * gradient / torch.where(deviation > 0, deviation, 1.0)
        # With amsgrad, second moments below the largest one do not move it.
        slope = torch.where((deviation > 0) & (used == state["exp_avg_sq"]), slope, 0.0)
        mean = state["exp_avg"] / first
        return signed(((1 - beta1) / first / divisor - mean * slope / (divisor * divisor)) * v, group)

    return reaction


def _corrections(state: State, group: Group) -> tuple[Tensor, Tensor]:
    """Adam's bias corrections ``1 - beta ** step``, without waiting for a device."""
    step = exact(state["step"])
    beta1, beta2 = group["betas"]
    return 1 - beta1**step, 1 - beta2**step


def _of_rule(rule: Rule) -> Reaction:
    """A vector-Jacobian product of the update, which is made once more for it."""

    def reaction(last: LastUpdate, index: int, group: Group, v: Tensor) -> Tensor:
        rate = float(group["lr"]) or IDLE_RATE
        with torch.enable_grad():
            gradient = last.gradient[index].detach().requires_grad_()
            after, _ = rule(last.parameters[index], gradient, last.states[index], {**group, "lr": rate})
        (found,) = torch.autograd.grad(after, gradient, -v / rate)
        return found

    return reaction


def _adam_divisor(state: State, group: Group) -> Tensor:
    square = state.get("max_exp_avg_sq", state["exp_avg_sq"])
    return _above(root(square / _corrections(state, group)[1]), group)


def _radam_divisor(state: State, group: Group) -> Tensor:
    return _above(root(state["exp_avg_sq"]), group) / _corrections(state, group)[1].sqrt()


def _rmsprop_divisor(state: State, group: Group) -> Tensor:
    mean = state.get("grad_avg")
    square = state["square_avg"] if mean is None else state["square_avg"] - mean * mean
    return _above(root(square), group)


def _adadelta_divisor(state: State, group: Group) -> Tensor:
    return root(_above(state["square_avg"], group)) / _positive(root(_above(state["acc_delta"], group)))


def _above(value: Tensor, group: Group) -> Tensor:
    return torch.add(value, group["eps"])


def _positive(divisor: Tensor) -> Tensor:
    """Away from 0 even where ``eps`` is 0, by as much as leaves room for its square."""
    return divisor.clamp(min=torch.finfo(divisor.dtype).tiny ** 0.5)


DIVISORS: Mapping[type[Optimizer], Callable[[State, Group], Tensor]] = {
    Adam: _adam_divisor,
    AdamW: _adam_divisor,
    NAdam: _adam_divisor,
    RAdam: _radam_divisor,
    Adamax: lambda state, group: state["exp_inf"],
    RMSprop: _rmsprop_divisor,
    Adagrad: lambda state, group: _above(root(state["sum"]), group),
    Adadelta: _adadelta_divisor,
}
