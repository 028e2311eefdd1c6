"""Trajectories in a checkpoint: records of updates are written, and graphs are computed again from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from betty.backends.torch.tape import Segment
from betty.backends.torch.trajectory.again import again, evaluated_again
from betty.backends.torch.trajectory.history import Record
from betty.backends.torch.trajectory.tangents import Column
from betty.backends.torch.tree import detach

if TYPE_CHECKING:
    from betty.backends.torch.program import LiveProblem


@dataclass(frozen=True, eq=False, kw_only=True)
class Trajectory:
    """What is kept of a problem's updates.

    Args:
        records: From which the updates can be computed again.
        open: The record of an update whose micro-batches are not complete.
        untouched: Whether nobody has moved the problem since its last update.
        linked: For every update whose graph is kept, whether it is linked with the one before.
        tangents: Derivatives that are carried along, and whether they begin anew, by target.
    """

    records: tuple[Record, ...]
    open: Record | None
    untouched: bool
    linked: tuple[bool, ...]
    tangents: Mapping[str, tuple[tuple[Column, ...], bool]]


RECORDS: tuple[type, ...] = (Trajectory, Record, Column)


def saved(problem: LiveProblem) -> Trajectory | None:
    """What to write of a problem's trajectory; ``None`` where there is none.

    Updates whose graphs are kept must have been recorded as well; those that have not been are left out.
    """
    history, known = problem.history, len(problem.history.records)
    linked = tuple(segment.linked for segment in problem.tape)[-known:] if known else ()
    tangents = {target: (tuple(one.columns), one.stale) for target, one in problem.tangents.items()}
    if not (known or history.open or tangents):
        return None
    return Trajectory(
        records=tuple(history.records),
        open=history.open,
        untouched=history.untouched(problem),
        linked=linked,
        tangents=tangents,
    )


def restore(problem: LiveProblem, trajectory: Trajectory | None, into: Container[str]) -> None:
    """Put a trajectory back, after parameters, optimiser and buffers.

    Args:
        problem: Whose.
        trajectory: What was written of it.
        into: The problems that the updates are differentiated by.
    """
    problem.forget()
    if trajectory is None:
        return
    history = problem.history
    history.records, history.open = list(trajectory.records), trajectory.open
    history.settle(problem, untouched=trajectory.untouched)
    for target, (columns, stale) in trajectory.tangents.items():
        if target in problem.tangents:
            problem.tangents[target].columns, problem.tangents[target].stale = list(columns), stale
    if trajectory.linked or (history.open is not None and problem.tape.maxlen):
        problem.tape, problem.open_segment = _graphs(problem, trajectory, into)


def _graphs(
    problem: LiveProblem, trajectory: Trajectory, into: Container[str]
) -> tuple[deque[Segment], Segment | None]:
    """The kept updates with their graphs, and the one that is not complete."""
    records = trajectory.records
    first = len(records) - len(trajectory.linked)
    tape: deque[Segment] = deque(maxlen=problem.tape.maxlen)
    whole = [*records, trajectory.open] if trajectory.open is not None else list(records)
    starts = [index for index, record in enumerate(whole) if record.start is not None and index <= first]
    last: Segment | None = None
    buffers: Any = ()
    for index in range(starts[-1], len(whole)):
        record = whole[index]
        link = first <= index < len(records) and trajectory.linked[index - first]
        if record.start is not None:
            buffers = record.start.buffers
        if record.start is not None and not link:
            segment = Segment.at(record.version, record.start.parameters, record.start.states)
        else:
            assert last is not None
            segment = Segment.following(record.version, last, link=link)
        segment.origin = record.origin
        if index == len(records):
            for micro in record.micros:
                buffers = evaluated_again(problem, micro, segment, buffers, into, graph=True)
            return tape, segment
        buffers = again(problem, record, segment, buffers, into, graph=index >= first)
        if index >= first:
            tape.append(segment)
        else:  # nothing before the window is differentiated
            segment.after = detach(segment.after)
        last = segment
    return tape, None
