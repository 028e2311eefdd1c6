"""Rematerialisation: updates are computed again from records, a block at a time, this time with their graphs."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from betty.backends.torch.objective import Objective
from betty.backends.torch.random import replaying
from betty.backends.torch.scaling import scaled_gradient
from betty.backends.torch.swap import BufferValues, copied
from betty.backends.torch.tape import Reading, Segment
from betty.backends.torch.trajectory.history import History, Micro, Record
from betty.backends.torch.trajectory.tuning import tuned_groups
from betty.backends.torch.tree import Tree, add, detach, scale
from betty.backends.torch.updates import rule_for

if TYPE_CHECKING:
    from betty.backends.torch.program import LiveProblem


def segments_again(problem: LiveProblem, history: History, steps: int, into: Container[str]) -> Iterator[Segment]:
    r"""The last ``steps`` updates with their graphs, newest first; at most ``history.stride`` graphs at any time.

    With one state kept for every :math:`\sqrt n` updates, and one block of as many graphs, memory grows as
    :math:`\sqrt n`; every update is computed twice in all.

    Args:
        problem: Whose updates; left as it is.
        history: Their records.
        steps: How many of them.
        into: Problems that are differentiated by; others count as constant.
    """
    for records, first in reversed(history.blocks(steps)):
        block = _block(problem, records, first, into)
        while block:
            yield block.pop()  # nothing here may hold on to a graph that has been swept


def _block(problem: LiveProblem, records: Sequence[Record], first: int, into: Container[str]) -> list[Segment]:
    """The segments of a block from its ``first`` record on; what lies before is run through without a graph."""
    start = records[0].start
    assert start is not None
    parameters, states, buffers = start.parameters, start.states, start.buffers
    done: list[Segment] = []
    for index, record in enumerate(records):
        # Not linked: swept one by one, they take less room. Nobody writes to values that are kept.
        segment = Segment.at(record.version, parameters, states)
        segment.origin = record.origin
        buffers = again(problem, record, segment, buffers, into, graph=index >= first)
        parameters = detach(segment.after)
        states = tuple({key: value.detach() for key, value in state.items()} for state in segment.state_after)
        if index >= first:
            done.append(segment)
    return done


def again(
    problem: LiveProblem,
    record: Record,
    segment: Segment,
    buffers: BufferValues,
    into: Container[str],
    *,
    graph: bool,
) -> BufferValues:
    """Compute one update again; the buffers that it leaves."""
    assert problem.optimizer is not None
    rule = rule_for(problem.optimizer)
    assert rule is not None
    for micro in record.micros:
        buffers = evaluated_again(problem, micro, segment, buffers, into, graph=graph)
    if len(record.micros) > 1 and segment.gradient is not None:
        segment.gradient = scale(1 / len(record.micros), segment.gradient)
    segment.gradient = problem.together(segment.gradient or ())
    tuners = _read(segment, record.tuners, into)
    with torch.set_grad_enabled(graph):
        groups = tuned_groups(record.groups, problem.tuned, tuners)
    segment.close(rule, groups, problem.gradient_clipping)
    return buffers


def evaluated_again(
    problem: LiveProblem,
    micro: Micro,
    segment: Segment,
    buffers: BufferValues,
    into: Container[str],
    *,
    graph: bool,
) -> BufferValues:
    """Add the gradient of one micro-batch; buffers are written to as they were."""
    stand_ins = {problem.name: segment.before, **_read(segment, micro.readings, into)}
    found, after = gradient_again(problem.objective, micro, stand_ins, segment.before, buffers, graph=graph)
    segment.gain(add(found, micro.gains) if micro.gains else found)
    return after


def gradient_again(
    objective: Objective,
    micro: Micro,
    stand_ins: Mapping[str, Tree],
    by: Tree,
    buffers: BufferValues,
    *,
    graph: bool,
) -> tuple[Tree, BufferValues]:
    """The gradient of a micro-batch's loss with the masks of its evaluation and ``buffers``; the buffers it leaves."""
    # Copies: the graph may have saved the buffers of one evaluation, and the next one writes to them.
    with (
        replaying(micro.sample.random, objective.device, host=objective.host_draws),
        objective.differentiable(),
        objective.buffers.holding(copied(buffers)),
        objective.holding(stand_ins),
        objective.undone(),
        torch.enable_grad(),
    ):
        loss = objective.held(micro.sample.batch, micro.sample.weight).loss
        options = {"create_graph": graph, "allow_unused": True, "materialize_grads": True}
        found = scaled_gradient(loss, by, micro.factor, **options)
        return found, objective.buffers.held()


def _read(segment: Segment, readings: Sequence[Reading], into: Container[str]) -> dict[str, Tree]:
    """What an update reads, noted where it is differentiated by, else as a constant."""
    return {one.problem: segment.read(one) if one.problem in into else detach(one.tensors) for one in readings}
