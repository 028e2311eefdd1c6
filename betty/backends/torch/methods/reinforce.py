"""The score function of what a lower draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from betty.backends.torch.errors import RunError
from betty.backends.torch.methods.base import Lower
from betty.backends.torch.methods.estimators import Answer, Estimator, Occasion
from betty.backends.torch.objective import LOG_PROB, Sample
from betty.backends.torch.tree import Tree


@dataclass(frozen=True, kw_only=True)
class Reinforce(Estimator):
    r"""Estimate the derivative of an expectation over what the lower's loss draws.

    Where the lower's loss draws something with a probability that depends on an upper ``x`` (an operation, a policy's
    action, which examples to learn from), no derivative passes through the draw. It returns the logarithm of the
    probability as ``log_prob`` beside ``loss``, and the response is

    .. math:: (L_U - b) \sum_t \nabla_x \log p(a_t; x)

    over the lower's last ``steps`` updates, :math:`L_U` being the target's loss and :math:`b` a running mean of it
    over earlier steps. As ``b`` does not depend on the draws, this is an unbiased estimate of
    :math:`\nabla_x E[L_U]` as far as it passes through those draws; what passes through the lower's loss in another
    way is left out. Its variance falls with a good baseline alone, so take small steps.

    Evaluations use the random states of the updates, so that the draws are the same ones.

    Cost: one evaluation of the lower's loss an update and its backward pass by ``x``.

    Args:
        steps: Updates of the lower whose draws count; 0 takes those since the target's last step.
        decay: Of the running mean; 0 takes the last loss alone, 1 keeps the baseline at zero.

    Reference: Williams (1992), "Simple statistical gradient-following algorithms", section 4.
    """

    steps: int = 0
    decay: float = 0.9

    def answer(self, lower: Lower, v: Tree, occasion: Occasion) -> Answer:
        del v  # the target's loss itself is the signal
        known: Tensor | None = occasion.memory.get("baseline")
        baseline = torch.zeros_like(occasion.loss) if known is None else known
        advantage = occasion.loss - baseline
        inputs = tuple(leaf for tree in lower.reads.values() for leaf in tree)
        with torch.enable_grad():
            total = torch.stack([_log_prob(lower, sample) for sample in lower.samples]).sum()
            scores = iter(torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True))
        gains = {
            name: tuple(advantage.to(leaf.dtype) * next(scores) for leaf in tree) for name, tree in lower.reads.items()
        }
        # The mean begins at the first loss, not at zero, unless the baseline is to stay there.
        start = occasion.loss if known is None and self.decay < 1 else baseline
        occasion.memory["baseline"] = torch.lerp(start, occasion.loss, 1 - self.decay)
        return Answer(gains, stats={"baseline": baseline, "advantage": advantage})


def _log_prob(lower: Lower, sample: Sample) -> Tensor:
    found: object = lower.objective.evaluated(sample, {}).log_prob
    if isinstance(found, Tensor) and found.requires_grad:
        return found.sum()
    returned = "none" if found is None else "one without a gradient" if isinstance(found, Tensor) else repr(found)
    raise RunError(
        f"reinforce needs the loss of {lower.name!r} to return {LOG_PROB!r}: the logarithm of the probability of what "
        f"it has drawn, differentiable by {', '.join(lower.reads)}; it returned {returned}"
    )
