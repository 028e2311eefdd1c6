"""Optimiser updates as differentiable functions of parameters, gradients, state and hyperparameters.

One function per optimiser, equal to ``torch.optim`` to rounding: the parameters, and the state that ``torch.optim``
would hold, so that it can take over at any time. A hyperparameter in the group may be a 0-dimensional tensor; the
update is then differentiable by it.

``torch.optim``'s own ``differentiable=True`` is not used: it detaches SGD's momentum buffer, fails for Adamax, does
not exist for Adafactor and Muon, and its square roots have an infinite slope at a gradient of zero.

Three optimisers of ``torch.optim`` have no smooth update and stay out. Rprop follows signs, whose derivative is zero
wherever it exists; SparseAdam writes those rows alone that a sparse gradient names, and sparse gradients carry no
graph; LBFGS evaluates the loss itself, as often as its line search likes.
"""

from __future__ import annotations

from torch.optim import Optimizer

from betty.backends.torch.updates import descent, matrices, moments, squares
from betty.backends.torch.updates.clipping import clip
from betty.backends.torch.updates.common import Group, Rule, State
from betty.backends.torch.updates.descent import common_rate

RULES: dict[type[Optimizer], Rule] = {**descent.RULES, **moments.RULES, **squares.RULES, **matrices.RULES}
"""The differentiable update of every optimiser that has one."""


def rule_for(optimizer: Optimizer) -> Rule | None:
    """The differentiable update of exactly this class of optimiser; ``None`` where there is none."""
    return RULES.get(type(optimizer))


__all__ = ["RULES", "Group", "Rule", "State", "clip", "common_rate", "rule_for"]
