"""What a user's own loop may say of the examples that it records."""

from __future__ import annotations

import torch
from torch import Tensor

from betty.ir.diagnostics import BettyError


class Recorded:
    """Given by :meth:`Valuation.recording`.

    Attributes:
        losses: One loss for each example, ``[n]``; ``None`` where they are not told, by which the store has NaN.
    """

    losses: Tensor | None = None

    def of(self, count: int) -> Tensor:
        """The losses as they are stored, float32 ``[count]``."""
        if self.losses is None:
            return torch.full((count,), float("nan"))
        found = self.losses.detach().float().cpu().flatten()
        if len(found) != count:
            raise BettyError(f"{len(found)} losses for {count} examples that are recorded")
        return found
