"""Updates made again by the lower's real optimiser, with other problems moved; nothing live is touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from betty.backends.torch.swap import BufferValues
from betty.backends.torch.tape import Reading
from betty.backends.torch.trajectory.again import gradient_again
from betty.backends.torch.trajectory.history import Record, Snapshot
from betty.backends.torch.trajectory.tuning import show, values_of
from betty.backends.torch.tree import Tree, add, detach, scale

if TYPE_CHECKING:
    from betty.backends.torch.program import LiveProblem

Moves = Mapping[str, Tree]
"""What is added to the parameters of other problems, by name."""


def player(problem: LiveProblem, steps: int) -> Callable[[Moves], Tree] | None:
    """A call that makes the last ``steps`` updates again and returns the parameters they lead to.

    ``None`` if no update has been made. What lies before them happens as it did, and what someone else has written to
    the problem's parameters between two of them replaces what they have led to until then.
    """
    blocks = problem.history.blocks(steps)
    if not blocks:
        return None
    records, first = [record for block, _ in blocks for record in block], blocks[0][1]
    start = records[0].start
    assert start is not None
    # From the beginning of a block to where the window begins, once and for all.
    at = _play(problem, start, records[:first], {})

    def play(moves: Moves) -> Tree:
        return _play(problem, at, records[first:], moves).parameters

    return play


def _play(problem: LiveProblem, start: Snapshot, records: Sequence[Record], moves: Moves) -> Snapshot:
    """Where ``records`` lead from ``start``."""
    parameters = tuple(leaf.clone().requires_grad_() for leaf in start.parameters)
    twin = _twin(problem, parameters)
    _put(twin, parameters, start)
    buffers = start.buffers
    for record in records:
        if record.edited and record.start is not None:
            _put(twin, parameters, record.start)
            buffers = record.start.buffers
        if record.origin is not None:
            _write(parameters, _moved(record.origin, moves))
        buffers = _update(problem, twin, parameters, record, buffers, moves)
    return Snapshot(detach(parameters), tuple(_copied(twin.state.get(one, {})) for one in parameters), buffers)


def _twin(problem: LiveProblem, parameters: Tree) -> Optimizer:
    """A copy of the optimiser that holds other parameters."""
    optimizer = problem.optimizer
    assert optimizer is not None
    memo: dict[int, Any] = {id(live): one for live, one in zip(problem.parameters, parameters, strict=True)}
    twin = copy.deepcopy(optimizer, memo)
    # Optimizer copies its groups and its state alone. Schedulers put functions beside them that act on the original.
    for key, value in vars(optimizer).items():
        if key not in vars(twin) and not callable(value):
            setattr(twin, key, copy.deepcopy(value, memo))
    return twin


def _put(twin: Optimizer, parameters: Tree, at: Snapshot) -> None:
    _write(parameters, at.parameters)
    twin.state.clear()
    for one, state in zip(parameters, at.states, strict=True):
        if state:
            twin.state[one] = _copied(state)


def _write(parameters: Tree, values: Tree) -> None:
    with torch.no_grad():
        torch._foreach_copy_(list(parameters), list(values))


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in state.items()}


def _moved(reading: Reading, moves: Moves) -> Tree:
    tensors = detach(reading.tensors)
    return add(tensors, moves[reading.problem]) if reading.problem in moves else tensors


def _update(
    problem: LiveProblem, twin: Optimizer, parameters: Tree, record: Record, buffers: BufferValues, moves: Moves
) -> BufferValues:
    """Make one update; the buffers that it leaves."""
    total: Tree = ()
    for micro in record.micros:
        stand_ins = {problem.name: parameters, **{one.problem: _moved(one, moves) for one in micro.readings}}
        part, buffers = gradient_again(problem.objective, micro, stand_ins, parameters, buffers, graph=False)
        part = add(part, micro.gains) if micro.gains else part
        total = add(total, part) if total else part
    if len(record.micros) > 1:
        total = scale(1 / len(record.micros), total)
    total = problem.together(total)
    _schedule(twin, parameters, record)
    show(twin, values_of(problem.tuned, {one.problem: _moved(one, moves) for one in record.tuners}))
    for one, gradient in zip(parameters, total, strict=True):
        one.grad = gradient
    if problem.gradient_clipping is not None:
        torch.nn.utils.clip_grad_norm_(parameters, problem.gradient_clipping)
    twin.step()
    return buffers


def _schedule(twin: Optimizer, parameters: Tree, record: Record) -> None:
    """Hyperparameters as they were."""
    known = {id(one): dict(group or {}) for one, group in zip(parameters, record.groups, strict=True)}
    for group in twin.param_groups:
        group.update(next((known[id(one)] for one in group["params"] if id(one) in known), {}))
