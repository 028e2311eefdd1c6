"""A run of an engine: what watches it, what is written down meanwhile, and what it returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from betty.backends.torch.finite import NonfiniteError
from betty.backends.torch.gathering import whole_state
from betty.backends.torch.profiler import Profiler
from betty.backends.torch.rescue import Rescue
from betty.backends.torch.trainer import Observer, Trainer
from betty.front import Front, Running
from betty.ir.compile import Compiled
from betty.ir.explain import Measured, explain
from betty.ir.plan import Exchange
from betty.observers.checkpoints import Checkpoints, InMemory, numbered
from betty.observers.peak import PeakWatch
from betty.observers.records import JsonLines, Memory, TensorBoard
from betty.result import History, Result
from betty.runfolder import RunFolder
from betty.signals import listening


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of :meth:`betty.Engine.run` or :meth:`betty.Engine.resume`.

    Args:
        front: The program.
        trainer: Runs it.
        folder: Where results go; ``None`` for nowhere. Of several processes the first writes.
        observers: Told of everything beside those that write.
        profile: Whether every instruction is measured.
        history: Rows of an earlier part of the same run.
    """

    front: Front
    trainer: Trainer
    folder: RunFolder | None = None
    observers: Sequence[Observer] = ()
    profile: bool = False
    compiled: Compiled | None = None
    """The plan as people read it; the one that is run where ``None``."""
    history: History = field(default_factory=History)

    def go(self, iterations: int, begin: Callable[[], None]) -> Result:
        """Run so many iterations.

        Args:
            iterations: How many more.
            begin: Called when everything is set up.

        Raises:
            RunError: The run cannot go on, or its folder cannot be written.
        """
        memory = Memory(self.history)
        processes = self.front.program.processes
        traffic = processes.traffic if processes is not None else None
        profiler = Profiler(self.front.program.device, traffic) if self.profile else None
        self.front.executor.around = profiler
        writers = self._writers()
        watch = PeakWatch(self.trainer, profiler) if profiler else None
        self.trainer.observers = [memory, *writers, *self.observers, *([watch] if watch else [])]
        self.trainer.rescue = rescue_of(self.front.running, self.trainer, self.folder, writers)
        start = time.perf_counter()
        begin()
        with listening() as self.trainer.asked:
            try:
                reason = self.trainer.run(iterations)
            except Exception as error:
                self._point_back(error)
                raise
            seconds = time.perf_counter() - start
            if self.folder is not None:
                problems = self.front.program.problems
                states = {name: whole_state(one.module, keep=self._first) for name, one in problems.items()}
                if self._first:
                    self.folder.write_weights(states)
        return Result(
            metrics=memory.history.last(),
            history=memory.history,
            iterations=self.trainer.iteration,
            reason=reason,
            seconds=seconds,
            folder=self.folder.path if self.folder and self._first else None,
            profile=self._measured(profiler, watch.bytes) if profiler and watch else "",
        )

    def _point_back(self, error: Exception) -> None:
        """Say with an error from where the run can go on."""
        if self.folder is None or not self._first or not self.front.running.checkpoint_every:
            return
        if isinstance(error, NonfiniteError):
            return  # it says so itself
        known = numbered(self.folder.checkpoints)
        if known:
            error.add_note(f"the last checkpoint is {known[-1]}; to go on: betty run --resume {self.folder.path}")
        else:
            error.add_note(f"there is no checkpoint yet; to begin again: betty run --resume {self.folder.path}")

    def _writers(self) -> list[Observer]:
        running = self.front.running
        back = running.on_nonfinite.action == "rollback"
        if self.folder is None:
            return [InMemory(self.trainer, running.checkpoint_every)] if back else []
        found = self._of_first(self.folder) if self._first else []
        if running.checkpoint_every:
            found.append(
                Checkpoints(
                    self.trainer,
                    self.folder.checkpoints,
                    every=running.checkpoint_every,
                    keep=running.checkpoint_keep,
                    best=running.checkpoint_best,
                    at_start=back,
                )
            )
        return found

    def _of_first(self, folder: RunFolder) -> list[Observer]:
        compiled = self.compiled or self.front.compiled
        folder.write_plan(explain(compiled.plan, compiled.graph) + "\n")
        folder.write_spec(self.front.written())
        found = cast("list[Observer]", [JsonLines(folder.metrics)])
        if self.front.running.tensorboard:
            found.append(TensorBoard(folder.path))
        return found

    @property
    def _first(self) -> bool:
        processes = self.front.program.processes
        return processes is None or processes.rank == 0

    def _measured(self, profiler: Profiler, held: int) -> str:
        measured = {
            key: Measured(
                seconds=reading.seconds,
                bytes=reading.bytes,
                calls=reading.calls,
                exchange=Exchange(calls=reading.met, bytes=reading.sent),
            )
            for key, reading in profiler.readings.items()
        }
        compiled = self.compiled or self.front.compiled
        return explain(compiled.plan, compiled.graph, measured, held)


def rescue_of(running: Running, trainer: Trainer, folder: RunFolder | None, writers: Sequence[Observer]) -> Rescue:
    """What a run does about numbers that are not finite."""
    made = next((one for one in writers if isinstance(one, Checkpoints | InMemory)), None)
    trainer.checkpoint_every = running.checkpoint_every if made else 0
    newest = made.newest if made else lambda: None
    return Rescue(trainer, running.on_nonfinite, newest, str(folder.path) if folder else "")
