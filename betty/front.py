"""What an engine needs of a program, however it was written: as a spec, or as classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from betty.backends.torch.executor import Executor
from betty.backends.torch.finite import OnNonfinite
from betty.backends.torch.program import Program
from betty.backends.torch.random import RandomState
from betty.backends.torch.trainer import EarlyStopping, Measures
from betty.ir.compile import Compiled

STOP = OnNonfinite()


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a program is run and what is written down meanwhile.

    Args:
        name: Of the program; folders of runs are called after it.
        iterations: Of a run that is not told how many.
        seed: Of the random states of a check.
        random: Random states to run from; without, the process's own generators are drawn from.
        record_every: Iterations between two rows of metrics.
        tensorboard: Whether event files are written into the run's folder.
        checkpoint_every: Iterations between two checkpoints; 0 for none.
        checkpoint_keep: Latest checkpoints that are kept.
        checkpoint_best: What makes a checkpoint better than others, if the best is kept too.
        on_nonfinite: What to do about numbers that are not finite.
    """

    name: str
    iterations: int
    seed: int = 0
    random: RandomState | None = None
    record_every: int = 10
    tensorboard: bool = False
    checkpoint_every: int = 0
    checkpoint_keep: int = 3
    checkpoint_best: EarlyStopping | None = None
    on_nonfinite: OnNonfinite = STOP


class Front(Protocol):
    """A program, compiled and alive."""

    @property
    def program(self) -> Program:
        """The live problems."""

    @property
    def compiled(self) -> Compiled:
        """Graph, plan and the graph after each pass."""

    @property
    def executor(self) -> Executor:
        """What follows the plan."""

    @property
    def running(self) -> Running:
        """How the program is run."""

    @property
    def measures(self) -> Measures | None:
        """What a run is measured by."""

    @property
    def early_stopping(self) -> EarlyStopping | None:
        """When a run ends before time."""

    @property
    def iterate(self) -> Callable[[], None] | None:
        """What an iteration does, where the program has its own order of events."""

    def written(self) -> str:
        """The program as the text of a spec, with what could not be written named in comments."""
