"""The state of a run as one file: everything that training needs to go on, but for the position in the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from betty.backends.torch.ahead import Ahead
from betty.backends.torch.errors import RunError
from betty.backends.torch.program import LiveProblem
from betty.backends.torch.random import RandomState
from betty.backends.torch.trainer import Trainer
from betty.ir.diagnostics import listing

FORMAT = 1


def state(trainer: Trainer) -> dict[str, Any]:
    """Parameters, buffers, optimisers, schedulers, counters and torch's random states, for ``torch.save``."""
    program = trainer.executor.program
    random = RandomState.capture(program.device, host=False)
    return {
        "format": FORMAT,
        "plan": trainer.executor.plan.name,
        "iteration": trainer.iteration,
        "random": {"cpu": random.cpu, "cuda": random.cuda},
        "problems": {name: _problem_state(problem) for name, problem in program.problems.items()},
    }


def _problem_state(problem: LiveProblem) -> dict[str, Any]:
    return {
        "module": problem.module.state_dict(),
        "optimizer": problem.optimizer.state_dict() if problem.optimizer else None,
        "scheduler": problem.scheduler.state_dict() if problem.scheduler else None,
        "count": problem.count,
        "version": problem.version,
        "accumulated": problem.accumulated,
        "memories": problem.memories,
        "started_at": problem.started_at,
        "seen": problem.seen,
        "scaler": problem.scaler.state_dict() if problem.scaler is not None else None,
        "ahead": problem.ahead.to_state() if problem.ahead else None,
    }


def restore(trainer: Trainer, path: Path) -> None:
    """Put a saved state back; data streams begin a new epoch, and unrolled trajectories begin anew.

    Raises:
        RunError: The file cannot be read, or belongs to other problems.
    """
    program = trainer.executor.program
    try:
        saved = torch.load(path, map_location=program.device, weights_only=True)
        problems: dict[str, Any] = saved["problems"]
    except Exception as error:  # whatever a damaged or foreign file makes of it
        reason = str(error).strip().splitlines()
        raise RunError(f"{path} is no checkpoint: {reason[0] if reason else type(error).__name__}") from None
    if set(problems) != set(program.problems):
        raise RunError(f"{path} holds the problems {listing(list(problems))}, not {listing(list(program.problems))}")
    for name, found in problems.items():
        _restore_problem(program[name], found, path)
    trainer.iteration = int(saved["iteration"])
    cuda = saved["random"]["cuda"]
    random = RandomState(saved["random"]["cpu"].cpu(), cuda.cpu() if cuda is not None else None)
    if trainer.shared:
        random.restore(program.device)
    else:
        trainer.random = random


def _restore_problem(problem: LiveProblem, saved: dict[str, Any], path: Path) -> None:
    try:
        problem.module.load_state_dict(saved["module"])
        if problem.optimizer is not None and saved["optimizer"] is not None:
            problem.optimizer.load_state_dict(saved["optimizer"])
        if problem.scheduler is not None and saved["scheduler"] is not None:
            problem.scheduler.load_state_dict(saved["scheduler"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise RunError(f"{path} does not fit {problem.name!r}: {str(error).strip().splitlines()[0]}") from None
    problem.count, problem.version, problem.accumulated = saved["count"], saved["version"], saved["accumulated"]
    problem.memories = saved.get("memories", {})
    problem.forget()
    problem.kept.clear()
    problem.started_at = saved.get("started_at", -1)
    if problem.scaler is not None and saved.get("scaler"):
        problem.scaler.load_state_dict(saved["scaler"])
    problem.seen = saved.get("seen", {})
    ahead = saved.get("ahead")
    problem.ahead = Ahead(**ahead) if ahead else None
