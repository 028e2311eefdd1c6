"""A program that was written as classes, as an engine runs it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from betty.backends.torch.executor import Executor
from betty.backends.torch.finite import Action, OnNonfinite
from betty.backends.torch.processes import local_device
from betty.backends.torch.program import Program
from betty.backends.torch.trainer import EarlyStopping, Measures
from betty.build import pick_device
from betty.classes.dependencies import parse
from betty.classes.naming import connect, warn_of_near_hooks
from betty.classes.runtime import Runtime
from betty.classes.validation import HookValidation
from betty.classes.writing import written
from betty.configs import EngineConfig
from betty.front import Running
from betty.ir.compile import Compiled
from betty.ir.diagnostics import BettyError, Diagnostic
from betty.logging import LoggerBase
from betty.problems.problem import Problem

DEVICES = {"cpu": "cpu", "gpu": "cuda"}
"""Strategies that name a device; the others take the accelerator that is there."""


class ClassFront:
    """The :class:`betty.front.Front` of problems and dependencies.

    Args:
        engine: The engine, an attribute of which every problem becomes.
        problems: In the order in which their steps are to come.
        dependencies: ``{"u2l": {upper: [lower, ...]}, "l2u": {lower: [upper, ...]}}``.
        config: Of the engine.
        env: The environment, or ``None``.
        logger: Where metrics go.

    Raises:
        BettyError: Everything wrong with the names, or with a part of a problem.
        GraphError: Everything wrong with the dependencies and methods.
    """

    def __init__(
        self,
        engine: Any,
        problems: Sequence[Problem],
        dependencies: Mapping[str, Any] | None,
        config: EngineConfig,
        env: Any,
        logger: LoggerBase,
    ) -> None:
        _check(problems)
        self._engine, self.config, self.env = engine, config, env
        connect(problems, engine, env)
        warn_of_near_hooks(problems, engine, env)
        for problem in problems:
            problem.env, problem.logger = env, logger
        self.runtime = Runtime(
            problems,
            parse(dependencies, problems),
            config=config,
            device=local_device(pick_device(DEVICES.get(config.strategy, "auto"))),
            env=env,
            engine=engine,
        )
        if config.strategy == "fsdp" and self.runtime.processes is not None:
            warnings.warn(
                "strategy 'fsdp' trains a program of classes as 'zero' does: the states of optimizers are shared, "
                "parameters are not",
                stacklevel=4,
            )
        validates = engine.is_implemented("validation")
        self.measures: Measures | None = HookValidation(engine, self.runtime.processes) if validates else None
        if config.early_stopping and self.measures is None:
            warnings.warn("early_stopping is asked for, but the engine defines no validation method", stacklevel=4)

    @property
    def problems(self) -> dict[str, Problem]:
        return self.runtime.problems

    @property
    def program(self) -> Program:
        return self.runtime.program

    @property
    def compiled(self) -> Compiled:
        return self.runtime.compiled

    @property
    def executor(self) -> Executor:
        return self.runtime.executor

    @property
    def running(self) -> Running:
        config = self.config
        return Running(
            name=config.name,
            iterations=self._engine.train_iters,
            record_every=config.log_every,
            tensorboard=False,
            checkpoint_every=config.checkpoint_every,
            checkpoint_keep=config.checkpoint_keep,
            checkpoint_best=self.early_stopping,
            on_nonfinite=OnNonfinite(action=cast("Action", config.on_nonfinite), limit=config.nonfinite_limit),
        )

    @property
    def early_stopping(self) -> EarlyStopping | None:
        config = self.config
        if not config.early_stopping or self.measures is None:
            return None
        mode: Literal["min", "max"] = "max" if config.early_stopping_mode == "max" else "min"
        patience = max(1, config.early_stopping_tolerance)
        return EarlyStopping(metric=config.early_stopping_metric, mode=mode, patience=patience)

    @property
    def iterate(self) -> Callable[[], None]:
        return self._engine.train_step  # type: ignore[no-any-return]

    def written(self) -> str:
        return written(self.runtime)


def _check(problems: Sequence[Any]) -> None:
    wrong = [one for one in problems if not isinstance(one, Problem)]
    if not problems or wrong:
        found = f"found {type(wrong[0]).__name__}" if wrong else "the list of problems is empty"
        raise BettyError(
            [
                Diagnostic(
                    code="no-problem",
                    field=("problems",),
                    message=found,
                    expected="a list of ImplicitProblem and IterativeProblem objects",
                )
            ]
        )
