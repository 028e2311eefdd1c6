"""Copies of a live program that share nothing with it that training changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from betty.backends.torch.ahead import Ahead
from betty.backends.torch.objective import Objective, Sample
from betty.backends.torch.program import LiveProblem, Program
from betty.backends.torch.stream import Loading, Stream, to_device
from betty.backends.torch.tree import Tree


class Feed(Stream):
    """Gives out one micro-batch, until it is handed another."""

    def __init__(self, problem: str, device: torch.device, dtype: torch.dtype | None) -> None:
        super().__init__(problem, list, Loading(), device, dtype)
        self._batch: Any = None

    def hand(self, batch: Any) -> None:
        self._batch = to_device(batch, self._device, self._dtype)

    def next(self) -> Any:
        return self._batch

    def peek(self) -> Any:
        return self._batch


def training_copy(program: Program) -> Program:
    """A program that goes on from where ``program`` stands, with data from the beginning of an epoch.

    Raises:
        RunError: The data is a live generator, which cannot be copied.
    """
    return _Copy(program, lambda problem: problem.stream and problem.stream.fork(), None, scheduled=True).run()


def replica(program: Program, dtype: torch.dtype | None = None) -> Program:
    """A program at the same point that is fed by hand; in another precision, with ``dtype``, losses included.

    It has no schedulers, no tapes and no half-finished differentiable updates.
    """

    def feed(problem: LiveProblem) -> Stream | None:
        return None if problem.stream is None else Feed(problem.name, program.device, dtype)

    return _Copy(program, feed, dtype, scheduled=False).run()


@dataclass(frozen=True, eq=False)
class _Copy:
    program: Program
    stream: Callable[[LiveProblem], Stream | None]
    dtype: torch.dtype | None
    scheduled: bool

    def run(self) -> Program:
        # One memo for all: what problems share, and what optimisers and schedulers hold, stays the same object.
        memo: dict[int, Any] = {}
        problems = self.program.problems
        modules = {name: copy.deepcopy(problem.module, memo) for name, problem in problems.items()}
        if self.dtype is not None:
            for module in modules.values():
                module.to(self.dtype)
        live = {name: self._problem(problem, modules, memo) for name, problem in problems.items()}
        return Program(problems=live, device=self.program.device)

    def _problem(self, problem: LiveProblem, modules: dict[str, Any], memo: dict[int, Any]) -> LiveProblem:
        optimizer = copy.deepcopy(problem.optimizer, memo)
        if optimizer is not None and self.dtype is not None and optimizer.state:
            optimizer.load_state_dict(optimizer.state_dict())  # casts the state to the parameters' precision
        found = LiveProblem(
            name=problem.name,
            module=modules[problem.name],
            objective=self._objective(problem.objective, modules, memo),
            optimizer=optimizer,
            scheduler=copy.deepcopy(problem.scheduler, memo) if self.scheduled else None,
            stream=self.stream(problem),
            gradient_clipping=problem.gradient_clipping,
            tuned=problem.tuned,
            starts_from=problem.starts_from,
            started_at=problem.started_at,
            count=problem.count,
            version=problem.version,
            accumulated=problem.accumulated and self._tree(problem.accumulated),
            memories=self._placed(copy.deepcopy(problem.memories)),
            ahead=self._placed_ahead(problem.ahead),
        )
        if self.dtype is None and problem.scaler is not None:
            found.scaler = found.objective.scaler = copy.deepcopy(problem.scaler)
        found.kept.extend(Sample(self._placed(sample.batch), sample.random) for sample in problem.kept)
        return found

    def _objective(self, objective: Objective, modules: dict[str, Any], memo: dict[int, Any]) -> Objective:
        loss = _apart(objective.loss, memo)
        if self.dtype is not None and isinstance(loss, torch.nn.Module):
            loss.to(self.dtype)
        return Objective(
            objective.name,
            loss,
            {name: modules[name] for name in objective.modules},
            takes_batch=objective._takes_batch,
            device=objective.device,
            autocast=objective.autocast if self.dtype is None else None,
        )

    def _placed_ahead(self, ahead: Ahead | None) -> Ahead | None:
        # In other precision, if asked for: what is put back is copied into the parameters that are there.
        return None if ahead is None else Ahead(**self._placed(copy.deepcopy(ahead.to_state())))

    def _placed(self, batch: Any) -> Any:
        return batch if self.dtype is None else to_device(batch, self.program.device, self.dtype)

    def _tree(self, tree: Tree) -> Tree:
        return tuple(leaf.detach().clone().to(self.dtype or leaf.dtype) for leaf in tree)


def _apart(loss: Callable[..., Any], memo: dict[int, Any]) -> Callable[..., Any]:
    """A loss may be an object with a state of its own; functions are the same object in a copy."""
    try:
        return copy.deepcopy(loss, memo)
    except Exception:  # whatever keeps a user's object from being copied
        return loss


Groups = tuple[dict[str, Any], ...]
"""Hyperparameters of an optimiser's groups, as a schedule has set them for one step; empty without a schedule."""


def hyperparameters(problem: LiveProblem) -> Groups:
    if problem.scheduler is None or problem.optimizer is None:
        return ()
    groups = problem.optimizer.param_groups
    return tuple({key: copy.deepcopy(value) for key, value in group.items() if key != "params"} for group in groups)


def set_hyperparameters(problem: LiveProblem, groups: Groups) -> None:
    if problem.optimizer is not None:
        for group, values in zip(problem.optimizer.param_groups, groups, strict=False):
            group.update(copy.deepcopy(values))
