"""The strategy ``fsdp``: each process keeps a part of the parameters, gradients and optimiser states of great modules.

Reference: Zhao et al. (2023), *PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel*, arXiv:2304.11277;
``torch.distributed.fsdp.fully_shard``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from betty.backends.torch.errors import RunError
from betty.backends.torch.objective import trainable
from betty.backends.torch.program import LiveProblem, Program

LEAST = 1_000_000
"""Parameters from which a module is shared, where the program does not say. Less of it to hold is not worth the time
that it takes to gather it for every pass."""
BLOCK = 0.01
"""Share of a module's parameters from which one of its blocks is gathered by itself."""

WHOLE = ("Adafactor", "Muon", "LBFGS")
"""Optimisers whose update of an entry depends on others of the same parameter."""

log = logging.getLogger("betty")


def shard_modules(program: Program, wanted: Mapping[str, bool | None]) -> None:
    """Spread the modules of a program over its processes; nothing for one process.

    Args:
        program: Changed in place: the parameters of shared modules are other tensors afterwards.
        wanted: Whether to share a problem's module, by name; ``None`` shares one of at least ``LEAST`` parameters.

    Raises:
        RunError: A module has a parameter that cannot be shared.
    """
    if program.processes is None:
        return
    chosen = [problem for problem in program.problems.values() if _chosen(problem, wanted.get(problem.name))]
    if not chosen:
        log.warning(
            "engine.strategy is 'fsdp', and no problem has a module of %s parameters: nothing is sharded, as by 'ddp' "
            "('shard_parameters: true' in a problem shards its module)",
            f"{LEAST:,}",
        )
        return
    # Imported where it is used: it takes longer than everything else together.
    from betty.backends.torch.sharded import ShardedObjective, shared

    for problem in chosen:
        _shard(problem)
    for problem in program.problems.values():
        if any(map(shared, problem.objective.modules.values())):
            problem.objective = ShardedObjective(problem.objective)


def _chosen(problem: LiveProblem, wanted: bool | None) -> bool:
    size = sum(leaf.numel() for leaf in problem.module.parameters())
    return size >= LEAST if wanted is None else wanted


def _shard(problem: LiveProblem) -> None:
    from torch.distributed.fsdp import fully_shard

    module = problem.module
    for name, leaf in module.named_parameters():
        if not leaf.dim():
            raise RunError(
                f"the parameter {name!r} of {problem.name!r} has no dimension along which it could be spread over "
                "processes: give it the shape [1], or set 'shard_parameters: false'"
            )
    kind = type(problem.optimizer).__name__
    if kind in WHOLE:
        raise RunError(
            f"the optimizer of {problem.name!r}, {kind}, looks at whole matrices, of which each process has a part: "
            "expected one that works an entry at a time, such as AdamW, or 'shard_parameters: false'"
        )
    before = dict(module.named_parameters())
    for block in blocks(module):
        fully_shard(block, reshard_after_forward=True)
    # Without this, the outermost group stays gathered after a pass that no backward pass follows.
    fully_shard(module, reshard_after_forward=True)
    after = dict(module.named_parameters())
    problem.parameters = trainable(module, problem.trained)
    if problem.optimizer is not None:
        _follow(problem.optimizer, {before[name]: after[name] for name in before})


def blocks(module: nn.Module) -> list[nn.Module]:
    """What is gathered by itself: the members of lists and sequences, where they hold a part that is worth it.

    One that shares a parameter with something outside it is left to the whole module.
    """
    least = max(1.0, BLOCK * sum(leaf.numel() for leaf in module.parameters()))
    found = [one for one in _members(module) if sum(leaf.numel() for leaf in one.parameters()) >= least]
    holders = Counter(id(leaf) for part in module.modules() for leaf in part._parameters.values() if leaf is not None)
    return [one for one in found if _alone(one, holders)]


def _members(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _members(child)
        elif isinstance(module, nn.Sequential | nn.ModuleList):
            yield child
        else:
            yield from _members(child)


def _alone(block: nn.Module, holders: Counter[int]) -> bool:
    own = Counter(id(leaf) for part in block.modules() for leaf in part._parameters.values() if leaf is not None)
    return all(holders[key] == count for key, count in own.items())


def _follow(optimizer: Optimizer, changed: Mapping[Tensor, Tensor]) -> None:
    """Let an optimiser hold the parameters as they are now, and what it keeps from the start spread as they are."""
    for group in optimizer.param_groups:
        group["params"] = [changed[leaf] for leaf in group["params"]]
    for leaf, state in list(optimizer.state.items()):
        optimizer.state[changed[leaf]] = {key: alike(value, changed[leaf]) for key, value in state.items()}
        del optimizer.state[leaf]


def alike(value: object, like: Tensor) -> object:
    """A tensor of a parameter's shape spread as the parameter is; anything else as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not (isinstance(value, Tensor) and isinstance(like, DTensor) and value.shape == like.shape and value.dim()):
        return value
    if isinstance(value, DTensor):
        return value
    # Every process has all of it.
    with torch.no_grad():
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
