"""Look-ahead: updates that are taken back once the problems above have answered them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from betty.backends.torch.program import LiveProblem, Program

States = dict[int, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Ahead:
    """Where a problem stood when its look-ahead began.

    Args:
        module: Parameters and buffers by name.
        states: What the optimiser kept, by the position of the parameter in its groups.
        counts: Micro-batches of the problems above by then, by name.
    """

    module: Mapping[str, Tensor]
    states: States
    counts: Mapping[str, int]

    @classmethod
    def taken(cls, program: Program, problem: LiveProblem, uppers: tuple[str, ...]) -> Ahead:
        """Copies of everything that updates of ``problem`` change."""
        return cls(
            module={name: tensor.detach().clone() for name, tensor in _tensors(problem)},
            states=_states(problem.optimizer),
            counts={upper: program[upper].count for upper in uppers},
        )

    def answered(self, program: Program) -> bool:
        """Whether a problem above has stepped since."""
        return any(program[upper].count > count for upper, count in self.counts.items())

    def put_back(self, problem: LiveProblem) -> None:
        """Let ``problem`` stand where it stood, bit for bit; what is kept of its last updates is dropped."""
        with torch.no_grad():
            for name, tensor in _tensors(problem):
                tensor.copy_(self.module[name])
        if problem.optimizer is not None:
            _put_back(problem.optimizer, self.states)
        problem.accumulated = None
        problem.forget()

    def to_state(self) -> dict[str, Any]:
        """As plain containers of tensors and numbers, for a checkpoint."""
        return {"module": dict(self.module), "states": self.states, "counts": dict(self.counts)}


def _tensors(problem: LiveProblem) -> Iterator[tuple[str, Tensor]]:
    yield from problem.module.named_parameters()
    yield from problem.module.named_buffers()


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _states(optimizer: Optimizer | None) -> States:
    if optimizer is None:
        return {}
    return {
        index: {key: _copied(value) for key, value in optimizer.state[parameter].items()}
        for index, parameter in enumerate(_parameters(optimizer))
        if parameter in optimizer.state
    }


def _put_back(optimizer: Optimizer, states: States) -> None:
    for index, parameter in enumerate(_parameters(optimizer)):
        optimizer.state.pop(parameter, None)
        if index in states:
            optimizer.state[parameter] = {key: _copied(value) for key, value in states[index].items()}


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
