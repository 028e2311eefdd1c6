"""What training again without some examples does to the losses of queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from betty.ir.diagnostics import BettyError

Train = Callable[[Tensor, int], "Outcome | Tensor | Sequence[float]"]
"""From the places of the kept examples (int64, ascending) and a seed to the losses of the queries ``[queries]``."""
Progress = Callable[[str, int], None]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a model trained on a part of the data says of the queries.

    Args:
        losses: Of the queries, ``[queries]``.
        predictions: The classes it predicts, ``[queries]`` whole numbers, where there are classes.
    """

    losses: Tensor
    predictions: Tensor | None = None


class Trainer:
    """Calls a user's training function, looks at what it gives, and counts the calls.

    Args:
        train: The function.
        examples: How many there are.
        queries: How many losses are expected.
        progress: Told what is being done and how many trainings are done.
    """

    def __init__(self, train: Train, examples: int, queries: int, progress: Progress | None = None) -> None:
        self.train, self.examples, self.queries = train, examples, queries
        self.progress, self.calls = progress, 0

    def __call__(self, keep: Tensor, seed: int, what: str = "retraining") -> Outcome:
        """Train on the examples where ``keep`` (bool ``[examples]``) is true.

        Raises:
            BettyError: The function does not give one finite loss for each query.
        """
        found = self.train(keep.nonzero().flatten(), seed)
        outcome = found if isinstance(found, Outcome) else Outcome(torch.as_tensor(found))
        losses = outcome.losses.detach().double().cpu()
        if losses.shape != (self.queries,):
            raise BettyError(f"train gives losses {list(losses.shape)}: expected one for each query, [{self.queries}]")
        if not bool(losses.isfinite().all()):
            raise BettyError(f"train gives losses that are not finite, with {int(keep.sum())} examples and seed {seed}")
        self.calls += 1
        if self.progress is not None:
            self.progress(what, self.calls)
        labels = outcome.predictions
        return Outcome(losses, labels.detach().cpu() if labels is not None else None)

    def whole(self, seed: int) -> Outcome:
        """Train on all examples."""
        return self(torch.ones(self.examples, dtype=torch.bool), seed)


def random_subsets(examples: int, count: int, fraction: float = 0.5, seed: int = 0) -> Tensor:
    """Random subsets of ``fraction`` of the examples, bool ``[count, examples]``.

    Raises:
        BettyError: Such a subset would be empty, or be the whole.
    """
    size = round(fraction * examples)
    if not 0 < size < examples:
        raise BettyError(f"{fraction:g} of {examples} examples is {size} of them: expected some, but not all")
    draws = torch.rand(count, examples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.zeros(count, examples, dtype=torch.bool).scatter_(1, draws.topk(size, dim=1).indices, True)


def retrained(trainer: Trainer, subsets: Tensor, *, seeds: int = 1, seed: int = 0) -> Tensor:
    """The queries' losses after training on each subset, float64 ``[subsets, seeds, queries]``.

    Args:
        trainer: What trains.
        subsets: Bool ``[subsets, examples]``.
        seeds: Trainings on each subset, whose mean takes out what is due to the seed.
        seed: The first of them; every training has its own.
    """
    numbers = iter(range(seed, seed + len(subsets) * seeds))
    runs = [[trainer(keep, next(numbers)).losses for _ in range(seeds)] for keep in subsets]
    return torch.stack([torch.stack(run) for run in runs])


def leave_one_out(trainer: Trainer, places: Sequence[int], seed: int = 0) -> Tensor:
    """How the queries' losses change when each of some examples is left out, float64 ``[queries, places]``.

    The seed is the same throughout, so that training differs by the example alone. To first order it is minus the
    score of the example.
    """
    whole, changes = trainer.whole(seed).losses, []
    for place in places:
        keep = torch.ones(trainer.examples, dtype=torch.bool)
        keep[place] = False
        changes.append(trainer(keep, seed).losses - whole)
    return torch.stack(changes, 1) if changes else torch.zeros(trainer.queries, 0, dtype=torch.float64)
