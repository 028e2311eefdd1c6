"""Updates that are left out: whatever depends on them stays as it was."""

from __future__ import annotations

from betty.backends.torch.program import LiveProblem
from betty.ir.methods import Method


def leave_out(problem: LiveProblem) -> None:
    """Count an update that is not made, and drop what has been prepared for it.

    Its micro-batches are used up; what is kept for responses are those of the last updates that were made. An update
    that was to begin anew from another problem's parameters does so at the next try.
    """
    problem.skipped += 1
    problem.accumulated, problem.spoiled = None, False
    begun = [one for one in (problem.open_segment, problem.history.open) if one is not None]
    if any(one.origin is not None for one in begun):
        problem.started_at = -1
    problem.open_segment = problem.history.open = None
    for tangents in problem.tangents.values():
        tangents.drop()
    for _ in range(min(problem.drawn, len(problem.kept))):
        problem.kept.pop()
    problem.kept.extendleft(reversed(problem.spared))
    kept_no_more(problem)


def kept_no_more(problem: LiveProblem) -> None:
    """After an update was made or left out: the micro-batches that it has pushed out are of no use any longer."""
    problem.drawn = 0
    problem.spared.clear()


def keep(problem: LiveProblem, sample: object) -> None:
    """Keep a micro-batch for responses, and what it pushes out until its update has been made."""
    if len(problem.kept) == problem.kept.maxlen:
        problem.spared.append(problem.kept[0])
    problem.kept.append(sample)  # type: ignore[arg-type]
    problem.drawn += 1


def silent(lower: LiveProblem, method: Method) -> bool:
    """Whether a lower cannot answer because all of its updates so far, or since it has begun anew, were left out."""
    if not lower.skipped:
        return False
    if method.unrolled:
        return not lower.tape and not lower.history.records
    if method.trajectory:
        return not lower.version
    return not lower.kept or (method.sees_updates and not lower.history.records)
