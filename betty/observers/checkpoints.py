"""An observer that saves the state of the run every so often, beside the training, and keeps the newest files."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from io import BytesIO
from pathlib import Path

from betty.backends.torch import checkpoint, shards
from betty.backends.torch.errors import RunError
from betty.backends.torch.spreading import mesh_of
from betty.backends.torch.trainer import EarlyStopping, Patience, Trainer
from betty.observers.base import Quiet
from betty.runfolder import write_atomically

BEST = "best.pt"
STOPPED = ("interrupted", "terminated")


class Checkpoints(Quiet):
    """``checkpoints/<iteration>.pt`` in the run's folder, written atomically, the last ``keep`` of them kept.

    Training waits while the state is copied, not while it is written: that happens in a thread. A file that cannot be
    written ends the run at the next checkpoint or at its end. A run that is interrupted between two iterations is saved
    where it stands; of one that is interrupted within an iteration the last file stays the newest, as going on from the
    middle of an iteration would leave steps out.

    Args:
        trainer: Of the run.
        folder: Of the run.
        every: Iterations between two files.
        keep: Files that are kept.
        best: What makes one better than another: the best file is kept as ``best.pt``, however old.
        at_start: Save where the run begins too, for a run that may have to go back there.

    Raises:
        RunError: The folder or a file cannot be written, or a part of the program cannot.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        *,
        every: int,
        keep: int,
        best: EarlyStopping | None = None,
        at_start: bool = False,
    ) -> None:
        self._trainer, self._folder, self._every, self._keep = trainer, folder, every, keep
        self._best, self._at_start = best, at_start
        self._writer: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        self._saved = self._done = -1

    def started(self, iteration: int, last: int) -> None:
        if self._at_start:
            self._begin(iteration)

    def newest(self) -> Path | None:
        """The last file, on disk by now; ``None`` where there is none."""
        self._finish()
        found = numbered(self._folder)
        return found[-1] if found else None

    def iterated(self, iteration: int) -> None:
        self._done = iteration
        if iteration % self._every == 0:
            self._begin(iteration)

    def ended(self, iteration: int, reason: str) -> None:
        try:
            if reason in STOPPED and self._done == iteration != self._saved and not self._left_alone:
                self._begin(iteration)
            self._finish(failed=reason == "failed")
        finally:
            if self._writer is not None:
                self._writer.shutdown()
                self._writer = None

    def _begin(self, iteration: int) -> None:
        """Copy the state, and let it be written while training goes on."""
        self._finish()
        best, path = self._improved(iteration), self._folder / f"{iteration:08d}.pt"
        shared = begin_shared(self._trainer, path)
        found = checkpoint.state(self._trainer, shared)
        self._saved = iteration
        if not found and not shared:
            return  # the first process writes for all
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="betty-checkpoint")
        self._pending = self._writer.submit(self._write, path, found, shared, best)

    def _improved(self, iteration: int) -> bool:
        """Whether this iteration was validated, and is better than all that were saved before."""
        if self._best is None or self._trainer.validated_at != iteration:
            return False
        watch = Patience(self._best, best=self._trainer.best)
        watch(self._trainer.validated)
        improved, self._trainer.best = watch.best < self._trainer.best, watch.best
        return improved

    @property
    def _left_alone(self) -> bool:
        """Whether the other processes of the run may be elsewhere."""
        return self._trainer.cut and self._trainer.executor.program.processes is not None

    def _finish(self, *, failed: bool = False) -> None:
        """Wait for the file that is being written; of a run that has failed already its own failure counts."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with suppress(RunError) if failed else nullcontext():
                pending.result()

    def _write(self, path: Path, found: checkpoint.State, shared: shards.Tensors | None, best: bool) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._trainer, path, found, shared)
            if best and found:
                keep_copy(path, self._folder / BEST)
        except OSError as error:
            raise RunError(f"cannot write the checkpoint {path}: {error.strerror or error}") from None
        for old in numbered(self._folder)[: -self._keep] if found else ():
            remove(old)


class InMemory(Quiet):
    """The last state of a run that has no folder, in the host's memory, for a run that may have to go back there."""

    def __init__(self, trainer: Trainer, every: int) -> None:
        self._trainer, self._every, self._held = trainer, every, BytesIO()

    def started(self, iteration: int, last: int) -> None:
        self._keep()

    def iterated(self, iteration: int) -> None:
        if iteration % self._every == 0:
            self._keep()

    def newest(self) -> BytesIO:
        """The last state."""
        return self._held

    def _keep(self) -> None:
        found, self._held = checkpoint.state(self._trainer), BytesIO()
        checkpoint.write(found, self._held)


def save(trainer: Trainer, path: Path) -> None:
    """Write the state of a run into a file.

    Raises:
        RunError: The file or a part of the program cannot be written.
    """
    shared = begin_shared(trainer, path)
    found = checkpoint.state(trainer, shared)
    try:
        write_whole(trainer, path, found, shared)
    except OSError as error:
        raise RunError(f"cannot write the checkpoint {path}: {error.strerror or error}") from None


def begin_shared(trainer: Trainer, path: Path) -> shards.Tensors | None:
    """What takes in the tensors that processes share; ``None`` where they share none."""
    program = trainer.executor.program
    if program.processes is None or mesh_of(program) is None:
        return None
    _ = program.processes.writing  # made here, where all are, and not in the threads that write
    if program.processes.rank == 0:
        shutil.rmtree(shards.unfinished(path), ignore_errors=True)
    return {}


def write_whole(trainer: Trainer, path: Path, found: checkpoint.State, shared: shards.Tensors | None) -> None:
    """Write what this process has of a checkpoint; the file, last of all, in the first process.

    Raises:
        OSError: It cannot be written.
        RunError: Another process could not write its part.
    """
    processes = trainer.executor.program.processes
    if shared and processes is not None:
        sums = shards.write(shared, path, processes)
        found = {**found, checkpoint.SHARDS: sums} if found else found
    if found:
        write_atomically(path, lambda file: checkpoint.write(found, file))


def keep_copy(path: Path, target: Path) -> None:
    """Copy a checkpoint with what lies beside it."""
    if (folder := shards.folder_of(path)).exists():
        # The file goes first and comes last: without it what lies beside it counts for nothing.
        target.unlink(missing_ok=True)
        shutil.rmtree(shards.folder_of(target), ignore_errors=True)
        shutil.copytree(folder, shards.folder_of(target))
    write_atomically(target, lambda file: shutil.copyfile(path, file))


def remove(path: Path) -> None:
    """Delete a checkpoint with what lies beside it."""
    with suppress(OSError):
        path.unlink()
    shutil.rmtree(shards.folder_of(path), ignore_errors=True)


def numbered(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("*.pt") if path.stem.isdecimal())
