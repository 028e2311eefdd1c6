"""Going back to the last checkpoint after numbers have become non-finite, and on from there on another way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from betty.backends.torch import checkpoint
from betty.backends.torch.finite import NonfiniteError, OnNonfinite
from betty.backends.torch.random import RandomState, derived_seed
from betty.backends.torch.rejoining import alone
from betty.backends.torch.trainer import Trainer

log = logging.getLogger("betty")


@dataclass
class Rescue:
    """Called when the run has met what is not finite: it goes back, or says what there is to go on from.

    Args:
        trainer: Of the run.
        policy: Whether to go back, and how often.
        newest: The last checkpoint; ``None`` where there is none.
        folder: Of the run, for messages; empty where nothing is written.
        taken: How often the run has gone back.
    """

    trainer: Trainer
    policy: OnNonfinite
    newest: Callable[[], Path | BytesIO | None]
    folder: str = ""
    taken: int = 0

    def __call__(self, error: NonfiniteError) -> int:
        """Go back; the iteration that the run stands at then.

        Raises:
            NonfiniteError: It does not go back, or has done so often enough, or there is nothing to go back to.
        """
        processes, iteration = self.trainer.executor.program.processes, self.trainer.iteration
        source = alone(processes, self.newest, "going back")
        if self.policy.action != "rollback" or source is None or self.taken >= self.policy.limit:
            times = f", after the run has gone back {self.taken} times" if self.taken else ""
            raise error.told(iteration, *self._advice(source), after=times) from None
        self.taken += 1
        self._go_back(source)
        log.warning(
            "%s is not finite (iteration %d): back to iteration %d, and on with other random numbers (%d of %d)",
            error.finding.what,
            iteration,
            self.trainer.iteration,
            self.taken,
            self.policy.limit,
        )
        return self.trainer.iteration

    def _go_back(self, source: Path | BytesIO) -> None:
        trainer, program = self.trainer, self.trainer.executor.program
        trainer.executor.watch.forget()
        if isinstance(source, BytesIO):
            source.seek(0)
        checkpoint.restore(trainer, source)
        trainer.resumed = False  # that is of the next call of run
        # The same draws in the same order would lead to the same place.
        own = ("process", str(program.processes.rank)) if program.processes is not None else ()
        trainer.stand(RandomState.seeded(derived_seed(self.taken, "rollback", *own), program.device))
        for name, problem in program.problems.items():
            if problem.stream is not None:
                problem.stream.shuffle_anew(derived_seed(self.taken, "rollback", name))

    def _advice(self, source: Path | BytesIO | None) -> tuple[str, str]:
        """What is expected, and what to do."""
        expected = "finite numbers; the update was not made"
        if isinstance(source, Path):
            go_on = f"betty run --resume {self.folder} goes on from the last good checkpoint, {source}"
            return expected, f"{go_on}; with --set engine.on_nonfinite=skip such updates are left out"
        if source is not None:
            return expected, "run with a folder (out=...), so that checkpoints stay when the run has ended"
        return expected, "there is no checkpoint to go on from: set engine.checkpoint, such as {every: 200}"
