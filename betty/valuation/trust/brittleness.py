"""The curve of what happens to a query when its most helpful examples are taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from betty.ir.diagnostics import BettyError
from betty.valuation.trust.measures import mean
from betty.valuation.trust.retraining import Outcome, Trainer


@dataclass(frozen=True, eq=False)
class Curve:
    """What leaving ``k`` examples out does: a query's most helpful ones, or random ones.

    Args:
        removed: The ``k``, ascending.
        helpful: Change of the query's loss without its ``k`` most helpful examples, float64 ``[k, queries]``.
        random: The same without ``k`` random ones, mean over draws.
        flipped: Part of the queries whose predicted class changed, ``[k]``; ``None`` without classes.
        random_flipped: The same without random ones.
        queries: Places of the queries that were looked at.
    """

    removed: tuple[int, ...]
    helpful: Tensor
    random: Tensor
    flipped: Tensor | None = None
    random_flipped: Tensor | None = None
    queries: tuple[int, ...] = ()

    def record(self) -> list[dict[str, float | int | None]]:
        """A row for each ``k``, as JSON holds it."""
        return [
            {
                "removed": count,
                "helpful": mean(self.helpful[place]),
                "random": mean(self.random[place]),
                "flipped": _at(self.flipped, place),
                "random_flipped": _at(self.random_flipped, place),
            }
            for place, count in enumerate(self.removed)
        ]


def brittleness(
    trainer: Trainer,
    scores: Tensor,
    removed: Sequence[int],
    *,
    queries: Sequence[int] | None = None,
    draws: int = 1,
    seed: int = 0,
) -> Curve:
    """Train without each query's most helpful examples, and without as many random ones.

    It takes one training with everything, one for each ``k`` and query, and ``draws`` for each ``k``. All have the
    same seed, so that they differ by the examples alone.

    Args:
        trainer: What trains.
        scores: ``[queries, examples]``; the lowest are the most helpful.
        removed: How many are left out.
        queries: Places of those that are looked at; all by default.
        draws: Random sets for each ``k``.
        seed: Of training and of the random sets.

    Raises:
        BettyError: More would be left out than there is.

    Reference: Ilyas et al. (2022), arXiv:2202.00622, section 4.1 (data brittleness).
    """
    counts = tuple(sorted({int(one) for one in removed}))
    if not counts or counts[0] < 1 or counts[-1] >= scores.shape[1]:
        raise BettyError(f"removing {list(counts)} of {scores.shape[1]} examples: expected some, but not all")
    asked = torch.tensor(range(len(scores)) if queries is None else queries, dtype=torch.int64)
    order = scores[asked].argsort(dim=1, stable=True)
    whole = trainer.whole(seed)
    generator = torch.Generator().manual_seed(seed)
    own = [_own(trainer, order, asked, count, seed) for count in counts]
    chance = [_chance(trainer, asked, count, seed, draws, generator) for count in counts]
    before = whole.losses[asked]
    return Curve(
        removed=counts,
        helpful=torch.stack([found.losses - before for found in own]),
        random=torch.stack([torch.stack([one.losses - before for one in found]).mean(0) for found in chance]),
        flipped=_flipped(whole, asked, [[found] for found in own]),
        random_flipped=_flipped(whole, asked, chance),
        queries=tuple(asked.tolist()),
    )


def _own(trainer: Trainer, order: Tensor, asked: Tensor, count: int, seed: int) -> Outcome:
    """For each query its own outcome without the examples that help it most."""
    losses, labels = [], []
    for row, query in zip(order, asked.tolist(), strict=True):
        found = trainer(_without(trainer.examples, row[:count]), seed, "leaving the most helpful out")
        losses.append(found.losses[query])
        labels += [found.predictions[query]] if found.predictions is not None else []
    return Outcome(torch.stack(losses), torch.stack(labels) if labels else None)


def _chance(
    trainer: Trainer, asked: Tensor, count: int, seed: int, draws: int, generator: torch.Generator
) -> list[Outcome]:
    outcomes = []
    for _ in range(draws):
        places = torch.randperm(trainer.examples, generator=generator)[:count]
        found = trainer(_without(trainer.examples, places), seed, "leaving random ones out")
        labels = found.predictions
        outcomes.append(Outcome(found.losses[asked], labels[asked] if labels is not None else None))
    return outcomes


def _without(examples: int, places: Tensor) -> Tensor:
    keep = torch.ones(examples, dtype=torch.bool)
    keep[places] = False
    return keep


def _flipped(whole: Outcome, asked: Tensor, found: list[list[Outcome]]) -> Tensor | None:
    """The part of predictions that differ, for each ``k``."""
    if whole.predictions is None:
        return None
    before, parts = whole.predictions[asked], []
    for outcomes in found:
        changed = [one.predictions != before for one in outcomes if one.predictions is not None]
        parts.append(torch.stack(changed).double().mean() if changed else torch.tensor(float("nan")))
    return torch.stack(parts)


def _at(values: Tensor | None, place: int) -> float | None:
    return None if values is None else float(values[place])
