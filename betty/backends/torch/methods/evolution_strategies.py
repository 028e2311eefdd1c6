"""Evolution strategies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from betty.backends.torch.errors import RunError
from betty.backends.torch.methods.base import Lower
from betty.backends.torch.methods.estimators import Answer, Estimator, Occasion
from betty.backends.torch.tree import Tree, add, dot, scale, subtract, zeros_like


@dataclass(frozen=True, kw_only=True)
class EvolutionStrategies(Estimator):
    r"""Make the lower's last updates again under random perturbations of the upper, and see where they lead.

    With :math:`\theta(x)` the result of the last ``steps`` updates, made by the lower's real optimiser from where it
    stood, on the same micro-batches and with the same dropout masks, the response is

    .. math:: \frac{1}{2 \sigma n} \sum_{i=1}^{n}
              \langle v, \theta(x + \sigma \epsilon_i) - \theta(x - \sigma \epsilon_i) \rangle \, \epsilon_i,
              \qquad \epsilon_i \sim N(0, I).

    It is the exact derivative, on average, of :math:`\theta(x)` smoothed over a Gaussian of width :math:`\sigma`; where
    :math:`\theta` is linear or quadratic in :math:`x`, of :math:`\theta` itself. Nothing need be differentiable by
    ``x``, neither loss nor optimiser: hyperparameters, starts and discrete decisions count too. The variance grows
    with the number of entries of ``x``, so use it for small uppers. All problems that the lower reads are perturbed
    at once. Draws depend on the target's count of micro-batches alone.

    Cost: ``2 * samples * steps`` training steps of the lower; memory of one, and of what it takes to make the updates
    again.

    Args:
        steps: Updates of the lower to make again; 0 takes those since the target's last step.
        samples: Pairs of opposite perturbations.
        sigma: Their standard deviation.

    Reference: Salimans, Ho, Chen, Sidor and Sutskever (2017), arXiv:1703.03864, section 2; Metz et al. (2019),
    arXiv:1810.10180, section 4, on unrolled optimisation.
    """

    steps: int = 0
    samples: int = 8
    sigma: float = 0.05

    def answer(self, lower: Lower, v: Tree, occasion: Occasion) -> Answer:
        if occasion.again is None:
            raise RunError(f"{lower.name!r} has made no update yet: there is nothing to make again")
        generator = torch.Generator().manual_seed(occasion.seed)
        gains = {name: zeros_like(tree) for name, tree in lower.reads.items()}
        for _ in range(self.samples):
            noise = {name: tuple(_normal(leaf, generator) for leaf in tree) for name, tree in lower.reads.items()}
            ends = [
                occasion.again({name: scale(sign * self.sigma, tree) for name, tree in noise.items()})
                for sign in (1.0, -1.0)
            ]
            weight = dot(v, subtract(*ends)) / (2 * self.sigma * self.samples)
            gains = {name: add(gains[name], scale(weight.to(tree[0].dtype), tree)) for name, tree in noise.items()}
        return Answer(gains)


def _normal(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal numbers, the same ones on every device."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
