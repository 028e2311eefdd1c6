"""Several valuations as one: checkpoints of a training, or models trained from several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from betty.ir.diagnostics import BettyError
from betty.valuation.results import Top, picked
from betty.valuation.valuation import Valuation


class Ensemble:
    """The weighted mean of the scores of several valuations of the same examples.

    With ``trak`` and models trained from several seeds it is the TRAK of Park et al. (2023), arXiv:2303.14186,
    section 3; with ``identity``, the checkpoints of one training and their learning rates as weights it is TracIn,
    Pruthi et al. (2020), arXiv:2002.08484, section 3.2, divided by the sum of the rates.

    Args:
        valuations: At least one; all have logged the same ids.
        weights: One for each, not negative; all alike by default.

    Raises:
        BettyError: There is none, or the weights do not go with them.
    """

    def __init__(self, valuations: Sequence[Valuation], weights: Sequence[float] | None = None) -> None:
        if not valuations:
            raise BettyError("an ensemble needs at least one valuation")
        shares = [1.0] * len(valuations) if weights is None else [float(one) for one in weights]
        if len(shares) != len(valuations) or min(shares) < 0 or not sum(shares) > 0:
            raise BettyError(
                f"weights {shares}: expected {len(valuations)} numbers that are not negative, not all zero"
            )
        self.valuations = tuple(valuations)
        self.weights = tuple(one / sum(shares) for one in shares)

    def log(self, data: Any, **options: Any) -> Ensemble:
        """Have every valuation log ``data``; see :meth:`Valuation.log`."""
        for one in self.valuations:
            one.log(data, **options)
        return self

    @property
    def ids(self) -> Tensor:
        """Ids of the logged examples, in the order of the columns of scores.

        Raises:
            BettyError: The valuations have not logged the same examples.
        """
        first = self.valuations[0].ids
        for place, one in enumerate(self.valuations):
            if not torch.equal(one.ids, first):
                raise BettyError(f"valuation {place} has logged other examples than valuation 0")
        return first

    def score(self, queries: Any, *, relative: bool = False) -> Tensor:
        """The mean scores, float32 ``[queries, examples]``; see :meth:`Valuation.score`."""
        examples = len(self.ids)  # looked at first, as it compares them
        total = torch.zeros(0, examples)
        for share, one in zip(self.weights, self.valuations, strict=True):
            found = one.score(queries, relative=relative).mul_(share)
            total = found if not len(total) else total.add_(found)
        return total

    def self_influence(self) -> Tensor:
        """The mean self-influence of every logged example, float32 ``[examples]``."""
        pairs = zip(self.weights, self.valuations, strict=True)
        return torch.stack([share * one.self_influence() for share, one in pairs]).sum(0)

    def top(self, queries: Any, k: int = 10, *, relative: bool = False) -> Top:
        """The most helpful and most harmful examples of each query; see :meth:`Valuation.top`."""
        return picked(self.score(queries, relative=relative), self.ids, k)

    def group(self, ids: Any, queries: Any) -> Tensor:
        """The joint influence of a group of examples on each query, ``[queries]``; see :meth:`Valuation.group`."""
        return self.score(queries)[:, self.valuations[0].places(ids)].sum(1)
