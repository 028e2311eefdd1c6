"""An observer that saves the state of the run every so often and keeps the newest files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from betty.backends.torch.checkpoint import state
from betty.backends.torch.errors import RunError
from betty.backends.torch.trainer import Trainer
from betty.observers.base import Quiet
from betty.runfolder import write_atomically


class Checkpoints(Quiet):
    """``checkpoints/<iteration>.pt`` in the run's folder, written atomically, the last ``keep`` of them kept.

    Raises:
        RunError: The folder or a file cannot be written.
    """

    def __init__(self, trainer: Trainer, folder: Path, every: int, keep: int) -> None:
        self._trainer, self._folder, self._every, self._keep = trainer, folder / "checkpoints", every, keep

    def iterated(self, iteration: int) -> None:
        if iteration % self._every:
            return
        path = self._folder / f"{iteration:08d}.pt"
        try:
            self._folder.mkdir(exist_ok=True)
            write_atomically(path, lambda file: torch.save(state(self._trainer), file))
        except OSError as error:
            raise RunError(f"cannot write the checkpoint {path}: {error.strerror or error}") from None
        for old in sorted(self._folder.glob("*.pt"))[: -self._keep]:
            with suppress(OSError):
                old.unlink()
