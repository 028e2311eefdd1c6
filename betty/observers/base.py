"""An observer that does nothing, for others to build on."""

from __future__ import annotations

from collections.abc import Mapping


class Quiet:
    """Every event of ``betty.backends.torch.trainer.Observer``, ignored."""

    def started(self, iteration: int, last: int) -> None:
        del iteration, last

    def iterated(self, iteration: int) -> None:
        del iteration

    def recorded(self, iteration: int, row: Mapping[str, float]) -> None:
        del iteration, row

    def went_back(self, iteration: int) -> None:
        del iteration

    def ended(self, iteration: int, reason: str) -> None:
        del iteration, reason
