"""Optimiser states that several processes share: each keeps those of its own parameters, and updates these alone.

Reference: Rajbhandari, Rasley, Ruwase and He (2020), *ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models*, arXiv:1910.02054, stage 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.optim import Optimizer

from betty.backends.torch.adaptation import LastUpdate
from betty.backends.torch.processes import Processes
from betty.backends.torch.program import Program
from betty.backends.torch.tree import Tree, assign
from betty.ir.plan import Plan, Update

ZERO = "zero"


@dataclass(frozen=True, eq=False)
class Shares:
    """Which process updates which parameters of a problem.

    Args:
        processes: All of them.
        owners: The rank that each parameter belongs to.
    """

    processes: Processes
    owners: tuple[int, ...]

    @classmethod
    def of(cls, processes: Processes, parameters: Tree) -> Shares:
        """The largest parameters first, each to the process that has least so far."""
        loads = [0] * processes.count
        owners = [0] * len(parameters)
        for index in sorted(range(len(parameters)), key=lambda one: -parameters[one].numel()):
            owners[index] = loads.index(min(loads))
            loads[owners[index]] += parameters[index].numel()
        return cls(processes, tuple(owners))

    @property
    def foreign(self) -> set[int]:
        """Positions of the parameters that other processes update."""
        return {index for index, owner in enumerate(self.owners) if owner != self.processes.rank}

    def completed(self, tree: Tree) -> Tree:
        """A tree whose leaves are each what the process has found that they belong to."""
        found = list(tree)
        for dtype in dict.fromkeys(leaf.dtype for leaf in tree):
            places = [
                [index for index, owner in enumerate(self.owners) if owner == rank and tree[index].dtype == dtype]
                for rank in range(self.processes.count)
            ]
            sizes = [[tree[index].numel() for index in own] for own in places]
            flat = tree[0].new_zeros(max(map(sum, sizes)), dtype=dtype)
            own = places[self.processes.rank]
            if own:
                flat[: sum(sizes[self.processes.rank])] = torch.cat([tree[index].detach().reshape(-1) for index in own])
            for indices, lengths, part in zip(places, sizes, self.processes.shown(flat), strict=True):
                for index, leaf in zip(indices, part[: sum(lengths)].split(lengths), strict=True):
                    found[index] = leaf.view(tree[index].shape)
        return tuple(found)

    def spread(self, parameters: Tree) -> None:
        """Give every process the parameters that the others have updated."""
        assign(parameters, self.completed(parameters))

    def own(self, last: LastUpdate) -> LastUpdate:
        """Of what is remembered of an update, the part that this process needs for its own parameters."""
        foreign = self.foreign
        empty = [one.new_empty(0) for one in last.gradient]
        return replace(
            last,
            groups=tuple(None if index in foreign else group for index, group in enumerate(last.groups)),
            gradient=tuple(empty[index] if index in foreign else one for index, one in enumerate(last.gradient)),
            parameters=tuple(empty[index] if index in foreign else one for index, one in enumerate(last.parameters)),
        )

    def drop(self, optimizer: Optimizer, parameters: Tree) -> None:
        """Forget the states of other processes' parameters."""
        for index in self.foreign:
            optimizer.state.pop(parameters[index], None)


def share_optimizers(program: Program, plan: Plan) -> None:
    """Let the processes of a program share its optimisers' states.

    Those of a problem whose updates are looked back on stay whole: every process differentiates all of an update.
    """
    if program.processes is None:
        return
    for step in plan:
        problem = program[step.problem]
        update = next((item for item in step.instructions if isinstance(item, Update)), None)
        looked_at = update is None or update.tape or update.replay or update.tangents
        replaced = problem.hooks is not None and problem.hooks.replaces
        if not (looked_at or replaced or step.ahead):
            problem.shares = Shares.of(program.processes, problem.parameters)


def merged_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One optimiser's ``state_dict`` from those of the processes that share it."""
    found: dict[str, Any] = dict(states[0])
    found["state"] = {key: value for state in states for key, value in state["state"].items()}
    return found


def merged_last(lasts: Sequence[LastUpdate]) -> LastUpdate:
    """What is remembered of an update, from what the processes remember of their own parameters."""
    whose = [
        next((one for one in lasts if one.groups[index] is not None), lasts[0]) for index in range(len(lasts[0].groups))
    ]

    def picked(name: str) -> tuple[Any, ...]:
        return tuple(getattr(one, name)[index] for index, one in enumerate(whose) if getattr(one, name))

    return LastUpdate(**{name: picked(name) for name in ("groups", "first", "gradient", "parameters", "states")})
