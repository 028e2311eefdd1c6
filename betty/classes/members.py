"""What an engine offers to a program of classes, under the names of the first Betty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from betty.backends.torch.trainer import Patience, Trainer
from betty.classes.dependencies import parse
from betty.classes.front import ClassFront
from betty.configs import EngineConfig
from betty.front import Front
from betty.ir.diagnostics import BettyError
from betty.logging import LoggerBase
from betty.problems.problem import Problem


class ClassMembers:
    """Members of an engine that belong to a program of classes; for a program from a spec they raise an error."""

    _front: Front
    _trainer: Trainer
    train_iters: int
    """Iterations of a run that is not told how many."""
    valid_step: int
    """Iterations between two calls of ``validation``."""
    config: EngineConfig
    logger: LoggerBase

    @property
    def _classes(self) -> ClassFront:
        if isinstance(self._front, ClassFront):
            return self._front
        raise BettyError(
            "this engine runs a spec: problems, leaves, dependencies and env belong to programs of classes; "
            "the parts of a spec are engine.graph, engine.plan and engine.modules"
        )

    @property
    def problems(self) -> list[Problem]:
        """The problems, in the order in which they were given."""
        return list(self._classes.problems.values())

    @property
    def leaves(self) -> list[Problem]:
        """The problems with none below them."""
        return self._classes.runtime.leaves

    @property
    def dependencies(self) -> dict[str, dict[Problem, list[Problem]]]:
        """``u2l`` and ``l2u`` as they are in force."""
        return self._classes.runtime.dependencies.as_given(self._classes.problems)

    @property
    def env(self) -> Any:
        """The environment, or ``None``."""
        return self._classes.env

    @property
    def device(self) -> torch.device:
        """Where the program runs."""
        return self._front.program.device

    @property
    def roll_back(self) -> bool:
        """Whether look-ahead updates are taken back."""
        return self.config.roll_back

    @property
    def strategy(self) -> str:
        return self.config.strategy

    @property
    def global_step(self) -> int:
        """Iterations so far; may be set."""
        return self._trainer.iteration

    @global_step.setter
    def global_step(self, value: int) -> None:
        self._trainer.iteration = value

    @property
    def early_stopping(self) -> Patience | None:
        """Called with what a validation has returned, it says whether to end; ``None`` without early stopping."""
        return self._trainer.patience

    def set_dependency(self, dependencies: Mapping[str, Any]) -> None:
        """Go on with other dependencies; parameters, optimisers and counters stay.

        Raises:
            GraphError: They are wrong.
        """
        front = self._classes
        front.runtime.rearrange(parse(dependencies, self.problems))

    def train_step(self) -> None:
        """One step of every leaf, each followed by the problems above it whose turn it then is.

        A subclass may define it otherwise; :meth:`betty.Engine.run` calls it once an iteration.
        """
        if not isinstance(self._front, ClassFront):
            with self._trainer.drawing():
                self._trainer.iterate_once()
            return
        for leaf in self.leaves:
            leaf.step(global_step=self.global_step)

    def train(self) -> None:
        """Put all modules into training mode; steps pass on to the problems above."""
        for problem in self.problems:
            problem.train()
        self._classes.runtime.training = True

    def eval(self) -> None:
        """Put all modules into evaluation mode."""
        for problem in self.problems:
            problem.eval()
        self._classes.runtime.training = False

    def do_validation(self) -> bool:
        """Whether this process validates."""
        return self.is_implemented("validation") and self.is_rank_zero()

    def is_implemented(self, fn_name: str) -> bool:
        """Whether the engine has a method of this name."""
        return callable(getattr(self, fn_name, None))

    def is_rank_zero(self) -> bool:
        """Whether this is the first of the processes."""
        processes = self._front.program.processes
        return processes is None or processes.rank == 0
