"""A class program at work: its graph, plan and live parts, and the order of events of the first Betty."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from betty.backends.torch.compiling import compile_program
from betty.backends.torch.executor import Executor
from betty.backends.torch.frame import Outcome
from betty.backends.torch.processes import Processes
from betty.backends.torch.program import Program
from betty.backends.torch.stream import to_device
from betty.backends.torch.zero import share_optimizers
from betty.build import AUTOCAST
from betty.classes.assembly import Assembler
from betty.classes.dependencies import Dependencies
from betty.classes.effects import Effects
from betty.classes.parts import check_scheduler, configure
from betty.classes.reading import reading, review
from betty.classes.stream import BatchStream
from betty.configs import EngineConfig
from betty.ir.compile import Compiled
from betty.problems.problem import Problem

log = logging.getLogger("betty")

SEVERAL = ("distributed", "zero", "fsdp", "accelerate")
"""Strategies under which the processes that ``torchrun`` has started train together."""


SHARING = ("zero", "fsdp")
"""Strategies under which these processes share the states of optimisers."""


class Runtime:
    """Runs steps of problems: leaves step, and a parent steps when all its children have completed their unroll.

    Args:
        problems: In the order in which they were given.
        dependencies: Who reads whom.
        config: Of the engine.
        device: Where to run.
        env: The environment, or ``None``.
        engine: Whose attributes extra evaluations leave as they are.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        dependencies: Dependencies,
        *,
        config: EngineConfig,
        device: torch.device,
        env: Any,
        engine: Any,
    ) -> None:
        self.problems: dict[str, Problem] = {problem.name: problem for problem in problems}
        self.dependencies, self.config, self.device = dependencies, config, device
        self.env, self.engine, self.training = env, engine, True
        self.processes: Processes | None = None
        if config.strategy in SEVERAL:
            self.processes = Processes.joined(config.backend, config.timeout, device)
        self.leaves = dependencies.connect(self.problems)
        self.noted: Callable[[Outcome], None] = lambda outcome: None
        """Told what every step has given."""
        self.rebuilt: Callable[[Executor], None] = lambda executor: None
        """Told the executor whenever there is a new one."""
        self._effects = Effects(*problems, *([env] if env is not None else []), engine)
        self._reviewed: set[str] = set()
        for problem in problems:
            problem._runtime = None  # parts that are configured now replace nothing that runs
            configure(problem, device)
            if self.processes is not None:
                self.processes.alike(problem.module)
                problem.train_data_loader = _shared(self.processes, problem.train_data_loader)
        for problem in problems:
            problem._runtime = self
        self._assemble(None)

    def _assemble(self, previous: Program | None) -> None:
        assembler = Assembler(
            self.problems, self.dependencies, self.config, self.env, self.device, self._effects, self.processes
        )
        graph = assembler.graph()
        self._program = assembler.program(previous)
        self._compiled = assembler.compile(graph, self._program)
        self._executor = Executor(self._compiled.plan, self._program)
        if self.config.strategy in SHARING:
            share_optimizers(self._program, self._compiled.plan)
        compile_program(self._compiled.plan, self._program)
        self._stale = False

    # What the engine works with, always of the present parts

    @property
    def program(self) -> Program:
        self._refresh()
        return self._program

    @property
    def compiled(self) -> Compiled:
        self._refresh()
        return self._compiled

    @property
    def executor(self) -> Executor:
        self._refresh()
        return self._executor

    def _refresh(self) -> None:
        if self._stale:
            self._stale = False
            around = self._executor.around
            self._assemble(self._program)
            self._executor.around = around
            self.rebuilt(self._executor)

    def rearrange(self, dependencies: Dependencies) -> None:
        """Go on with other dependencies; counters stay."""
        self.dependencies = dependencies
        self.leaves = dependencies.connect(self.problems)
        self._reviewed.clear()
        self._stale = True

    # The view that problems have

    @property
    def rank(self) -> int:
        return 0 if self.processes is None else self.processes.rank

    def count(self, name: str) -> int:
        return self._program[name].count

    def ready(self, name: str) -> list[bool]:
        seen = self._program[name].seen
        return [self._loops(child) > seen.get(child.name, 0) for child in self.problems[name].children]

    def _loops(self, problem: Problem) -> int:
        """How often a problem has completed its unroll; loops that end within its warm-up do not count."""
        config = problem.config
        length = config.unroll_steps * config.gradient_accumulation
        return self.count(problem.name) // length - min(config.warmup_steps, self.count(problem.name)) // length

    def placed(self, batch: Any, name: str) -> Any:
        dtype = torch.float64 if self.problems[name].config.precision == "fp64" else None
        return to_device(batch, self.device, dtype)

    def autocast(self, name: str) -> AbstractContextManager[Any]:
        dtype = AUTOCAST[self.problems[name].config.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def paths(self, problem: Problem) -> list[list[Problem]]:
        return [[self.problems[name] for name in way] for way in self.dependencies.paths(problem.name)]

    def replaced(self, name: str, part: str) -> None:
        problem, live = self.problems[name], self._program[name]
        had = live.optimizer is not None
        if part == "scheduler":
            check_scheduler(problem)
            live.scheduler = problem.scheduler
        elif part == "optimizer" and had and type(problem.optimizer) is type(live.optimizer) and not self._stale:
            live.optimizer = problem.optimizer
        elif part == "train_data_loader":
            if isinstance(live.stream, BatchStream):
                live.stream.start_anew()
        else:
            self._stale = True
            problem.module.to(self.device)

    # Steps

    def step(self, name: str, global_step: int | None) -> None:
        """A step of a problem, of those above it whose turn it then is, and the real steps that end a look-ahead."""
        executor = self.executor
        problem = self.problems[name]
        if not problem.check_ready():
            return
        self._step(executor, problem, global_step)
        if self.config.roll_back:
            for settled in sorted(self.problems.values(), key=self._level, reverse=True):
                self._settle(settled)

    def _step(self, executor: Executor, problem: Problem, global_step: int | None) -> None:
        if not problem.check_ready():
            return
        problem._global_step = global_step
        if self._at_loop_start(problem) and problem.is_implemented("on_inner_loop_start"):
            problem.on_inner_loop_start()  # type: ignore[attr-defined]
            executor = self.executor  # the hook may have replaced a part
        if self.config.roll_back and self._at_boundary(problem):
            executor.look_ahead(problem.name)
        before = self._loops(problem)
        outcome = executor.step(problem.name)
        self._program[problem.name].seen = {child.name: self._loops(child) for child in problem.children}
        self._after(problem, outcome, global_step)
        if self.training and self._loops(problem) > before:
            for parent in problem.parents:
                self._step(executor, parent, global_step)

    def _after(self, problem: Problem, outcome: Outcome, global_step: int | None) -> None:
        self.noted(outcome)
        every = problem.config.log_step
        if every > 0 and problem.count % every == 0 and self.rank == 0:
            problem.log({"loss": outcome.loss.item(), **outcome.metrics}, global_step)
        if problem.name not in self._reviewed:
            self._reviewed.add(problem.name)
            review(self._compiled.graph, problem, reading(self._program, problem.name, problem.cur_batch))

    def _at_loop_start(self, problem: Problem) -> bool:
        count = self.count(problem.name)
        return count == 0 or (self._at_boundary(problem) and count > problem.config.warmup_steps)

    def _at_boundary(self, problem: Problem) -> bool:
        return self.count(problem.name) % (problem.config.unroll_steps * problem.config.gradient_accumulation) == 0

    def _settle(self, problem: Problem) -> None:
        """Go back and make the one real update, if a parent has answered the look-ahead."""
        outcome = self.executor.settle(problem.name)
        if outcome is not None:
            self.noted(outcome)

    def _level(self, problem: Problem) -> int:
        return self._compiled.graph.problem(problem.name).level or 0


def by_name(problems: Sequence[Problem]) -> Mapping[str, Problem]:
    return {problem.name: problem for problem in problems}


def _shared(processes: Processes, loader: Any) -> Any:
    """This process's part of a problem's data."""
    return tuple(map(processes.share, loader)) if isinstance(loader, tuple) else processes.share(loader)
