"""The linear datamodeling score: whether sums of scores predict what training on a subset gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from betty.ir.diagnostics import BettyError
from betty.valuation.trust.measures import mean, spearman

RESAMPLED = 500
"""Bootstrap samples."""
AT_ONCE = 2_000_000
"""Entries of those that are ranked together."""


@dataclass(frozen=True, eq=False)
class Datamodeling:
    """The linear datamodeling score of a matrix of scores.

    Args:
        per_query: Spearman's correlation over subsets, float64 ``[queries]``; NaN where losses never differ.
        low: Lower end of the confidence interval of the mean.
        high: Its upper end.
        level: Of the interval, such as 0.95.
        subsets: How many there were.
        seeds: Trainings on each.
        ceiling: The most that a perfect prediction could reach, given how much losses depend on the seed; ``None`` with
            one seed, which does not tell.
    """

    per_query: Tensor
    low: float
    high: float
    level: float
    subsets: int
    seeds: int = 1
    ceiling: float | None = None

    @property
    def score(self) -> float:
        """The mean over queries."""
        return mean(self.per_query)

    def record(self) -> dict[str, float | int | None]:
        fields = ("score", "low", "high", "level", "subsets", "seeds", "ceiling")
        return {name: getattr(self, name) for name in fields}


def datamodeling(
    scores: Tensor, subsets: Tensor, losses: Tensor, *, level: float = 0.95, seed: int = 0
) -> Datamodeling:
    r"""The linear datamodeling score.

    The loss of query ``q`` after training on a subset is predicted by the sum of the scores of its examples,
    :math:`\sum_{i \in S} s_{qi}`; the score is Spearman's correlation over random subsets between predictions and
    measurements, averaged over queries. The interval is a bootstrap over subsets and queries together.

    Args:
        scores: ``[queries, examples]``, derivatives of losses by weights: positive where more of an example raises it.
        subsets: Bool ``[subsets, examples]``: what was trained on.
        losses: What was measured, ``[subsets, seeds, queries]``; averaged over seeds.
        level: Of the confidence interval.
        seed: Of the bootstrap.

    Raises:
        BettyError: Shapes do not go together, or there are fewer than three subsets.

    Reference: Park et al. (2023), arXiv:2303.14186, definition 2.4.
    """
    count, examples = subsets.shape
    if scores.shape[1] != examples or losses.shape[0] != count or losses.shape[2] != len(scores):
        raise BettyError(
            f"scores {list(scores.shape)}, subsets {list(subsets.shape)} and losses {list(losses.shape)}: expected "
            "[queries, examples], [subsets, examples] and [subsets, seeds, queries]"
        )
    if count < 3:
        raise BettyError(f"{count} subsets: a correlation over them needs at least 3")
    predicted = scores.double() @ subsets.double().T
    measured = losses.double().mean(1).T
    low, high = _interval(predicted, measured, level, torch.Generator().manual_seed(seed))
    found = spearman(predicted, measured)
    return Datamodeling(found, low, high, level, count, losses.shape[1], _ceiling(losses))


def _interval(predicted: Tensor, measured: Tensor, level: float, generator: torch.Generator) -> tuple[float, float]:
    """The bootstrap interval of the mean correlation: subsets are drawn again, and so are queries."""
    queries, count = predicted.shape
    means: list[Tensor] = []
    for size in _chunks(RESAMPLED, max(1, AT_ONCE // (queries * count))):
        subset = torch.randint(0, count, (size, 1, count), generator=generator)
        query = torch.randint(0, queries, (size, queries, 1), generator=generator)
        means.append(spearman(predicted[query, subset], measured[query, subset]).nanmean(1))
    found = torch.cat(means)
    found = found[~found.isnan()]
    if not len(found):
        return math.nan, math.nan
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = found.quantile(ends).tolist()
    return low, high


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _ceiling(losses: Tensor) -> float | None:
    """The root of the reliability of the measured losses: no prediction correlates higher with them, on average.

    The reliability of the mean over ``m`` seeds is ``m r / (1 + (m - 1) r)`` with the mean correlation ``r`` between
    seeds: Spearman (1910) and Brown (1910).
    """
    seeds = losses.shape[1]
    if seeds < 2:
        return None
    placed = losses.double().permute(1, 2, 0)
    between = [spearman(placed[one], placed[other]) for one in range(seeds) for other in range(one)]
    together = max(0.0, mean(torch.stack(between)))
    return math.sqrt(seeds * together / (1 + (seeds - 1) * together))
