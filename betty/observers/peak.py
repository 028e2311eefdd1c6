"""The most memory that a run holds at once, watched during its first iterations."""

from __future__ import annotations

from betty.backends.torch.profiler import Profiler, StorageWatch, held_bytes
from betty.backends.torch.trainer import Trainer
from betty.observers.base import Quiet

MOST = 200
"""Iterations that are watched at most; watching slows them."""


class PeakWatch(Quiet):
    """Watches until every problem has stepped twice: by then optimiser states and kept graphs are there.

    Args:
        trainer: Of the run.
        profiler: Does not count the time of these iterations.
    """

    def __init__(self, trainer: Trainer, profiler: Profiler) -> None:
        self._trainer, self._profiler = trainer, profiler
        self._watch: StorageWatch | None = None
        self._left = min(MOST, 2 * max(step.period for step in trainer.executor.plan))
        self.bytes = 0

    def started(self, iteration: int, last: int) -> None:
        self.bytes = held_bytes(self._trainer.executor.program)
        self._profiler.disturbed = True
        self._watch = StorageWatch()
        self._watch.__enter__()  # type: ignore[no-untyped-call]

    def iterated(self, iteration: int) -> None:
        self._left -= 1
        if not self._left:
            self._finish()

    def ended(self, iteration: int, reason: str) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._watch is not None:
            self._watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self.bytes += self._watch.peak
            self._watch, self._profiler.disturbed = None, False
