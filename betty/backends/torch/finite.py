"""What becomes of numbers that are not finite: noticed before an update is made, they stop the run or leave it out."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from betty.backends.torch.errors import RunError
from betty.backends.torch.frame import Clue, Frame
from betty.backends.torch.program import LiveProblem, Program
from betty.backends.torch.scaling import SMALLEST, back_off, grow
from betty.backends.torch.tree import entire, sharded
from betty.ir.diagnostics import Diagnostic
from betty.ir.plan import Plan

Action = Literal["stop", "skip", "rollback"]

log = logging.getLogger("betty")


@dataclass(frozen=True, kw_only=True)
class OnNonfinite:
    """What to do about a loss, gradient, hypergradient or solve that is not finite.

    Args:
        action: ``stop`` ends the run with an error, ``skip`` leaves the update out, ``rollback`` goes back to the last
            checkpoint and on from there with other random numbers.
        limit: ``skip``: updates of one problem left out in a row before the run ends; ``rollback``: how often the run
            goes back in all.
    """

    action: Action = "stop"
    limit: int = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was not finite, and where.

    Args:
        problem: Whose step it was.
        step: Micro-batches of that problem by then.
        instruction: As notes of errors name it: ``%1 differentiate``.
        what: ``the loss of 'net'``, for instance.
        lower: The problem that has responded, if the response is to blame.
    """

    problem: str
    step: int
    instruction: str
    what: str
    lower: str = ""


class NonfiniteError(RunError):
    """A number that is not finite has ended the run, before it could reach a parameter or a checkpoint."""

    def __init__(
        self, finding: Finding, *, after: str = "", iteration: int = 0, expected: str = "", hint: str = ""
    ) -> None:
        self.finding, self.after = finding, after
        at = f" (iteration {iteration})" if iteration else ""
        where = f"problem {finding.problem!r}, step {finding.step}{at}, instruction {finding.instruction}"
        message = f"{finding.what} is not finite{after}"
        super().__init__(
            [Diagnostic(code="nonfinite", field=(), message=message, where=where, expected=expected, hint=hint)]
        )

    def told(self, iteration: int, expected: str = "", hint: str = "", after: str = "") -> NonfiniteError:
        """The same with what the executor does not know: the iteration, and what there is to go on from."""
        after = after or self.after
        return NonfiniteError(self.finding, after=after, iteration=iteration, expected=expected, hint=hint)


class Watch:
    """Looks at every loss and gradient before an update is made of it.

    On a CPU two numbers are looked at per micro-batch. On an accelerator, where that would be waiting, flags are
    copied to the host beside the work and looked at with the next update: the error then comes an update late, and
    :meth:`settle` looks at all of them before a record or a checkpoint is made. Where an update is left out if need be,
    by ``skip`` or by a gradient scaler, it has to wait for one number, as ``torch.amp.GradScaler`` does.

    Args:
        plan: Whose instructions are named.
        program: The problems.
        policy: ``None`` looks at problems with a gradient scaler alone.
    """

    def __init__(self, plan: Plan, program: Program, policy: OnNonfinite | None = None) -> None:
        self.plan, self.program, self.policy = plan, program, policy
        self.later = program.device.type != "cpu"
        """Whether flags are looked at later."""
        self._pending: deque[tuple[Any, Tensor, list[Finding]]] = deque()
        self._warned: set[str] = set()
        self._scaled = {step.problem: self._scalers(step.problem) for step in plan}

    def _scalers(self, name: str) -> bool:
        involved = [name, *(item.problem for item in self.plan.step(name).responses)]
        return any(self.program[one].scaler is not None for one in involved)

    def spares(self, problem: LiveProblem) -> bool:
        """Whether a step of the problem may be left out, so that its buffers have to be kept."""
        return self._scaled[problem.name] or (self.policy is not None and self.policy.action == "skip")

    def admits(self, frame: Frame) -> bool:
        """Whether a micro-batch may become part of an update; where not, its traces are removed.

        Raises:
            NonfiniteError: It may not, and the run cannot go on.
        """
        several = self.program.processes is not None
        good = not frame.silent and (self._passes_here(frame) if several else self._passes(frame))
        if good:
            frame.problem.memories.update(frame.memories)
            return True
        frame.moved.clear()
        if frame.buffers is not None:
            frame.problem.objective.buffers.put(frame.buffers)
        return several and not frame.silent

    def _passes(self, frame: Frame) -> bool:
        if self.policy is None and not self._scaled[frame.problem.name]:
            return True
        if self.later and not self.spares(frame.problem):
            self._look_later(frame)
            return True
        if _sound(frame):
            return True
        self._refuse(frame.problem, self._finding(frame))
        return False

    def _passes_here(self, frame: Frame) -> bool:
        """Whether a micro-batch is sound in this one of several processes.

        What is not goes into the average, where all of them find it, and all leave out the same updates.
        """
        assert frame.evaluation is not None
        first, loss = frame.gradient[0], frame.evaluation.loss.detach()
        if not sharded(first):  # a gradient that processes share has been averaged already
            spoiling = loss * (torch.nan if frame.failed else 0.0)
            frame.gradient = (first + spoiling.to(first.dtype), *frame.gradient[1:])
        return not self.spares(frame.problem) or _sound(frame)

    def passes_update(self, frame: Frame, gradient: Sequence[Tensor]) -> bool:
        """The same of an update's gradient, once it has been averaged over processes and seen by the program."""
        if self.policy is None and not self._scaled[frame.problem.name]:
            return True
        if self.later and not self.spares(frame.problem):
            finding = self._found(frame, frame.at, f"the gradient of {frame.problem.name!r}")
            self._queue([_flag(gradient)], [finding])
            return True
        if finite(gradient):
            return True
        self._refuse(frame.problem, self._found(frame, frame.at, f"the gradient of {frame.problem.name!r}"))
        return False

    def made(self, problem: LiveProblem) -> None:
        """An update was made."""
        problem.skipped_in_a_row = 0
        if problem.scaler is not None:
            grow(problem.scaler, problem.parameters)

    def settle(self, *, wait: bool = True) -> None:
        """Look at the flags that are on their way; with ``wait``, at all of them.

        Raises:
            NonfiniteError: An update was made of what is not finite.
        """
        while self._pending:
            event, flags, findings = self._pending[0]
            if not (wait or event is None or event.query()):
                return
            if event is not None:
                event.synchronize()
            self._pending.popleft()
            for good, finding in zip(flags.tolist(), findings, strict=True):
                if not good:
                    self._pending.clear()
                    raise NonfiniteError(finding)

    def forget(self) -> None:
        """Drop the flags that are on their way: the run has gone back."""
        self._pending.clear()

    def sound(self) -> None:
        """Make sure that nothing poisoned is about to be written down.

        Raises:
            NonfiniteError: A trainable parameter is not finite, or an update was made of what is not.
        """
        if self.policy is None:
            return
        self.settle()
        for name, problem in self.program.problems.items():
            if not finite(problem.parameters):
                bad = next(key for key, one in problem.named(problem.parameters).items() if not finite([one]))
                what = f"the parameter {bad!r} of {name!r}"
                raise NonfiniteError(Finding(problem=name, step=problem.count, instruction="update", what=what))

    def _refuse(self, problem: LiveProblem, finding: Finding) -> None:
        """Count an update that is not made, or end the run."""
        after = self._handed_to_scalers(problem, finding)
        if after is None:
            return
        if self.policy is None or self.policy.action != "skip":
            raise NonfiniteError(finding, after=after)
        if problem.skipped_in_a_row >= self.policy.limit:
            times = f"; {self.policy.limit} updates in a row were left out before it"
            raise NonfiniteError(finding, after=after + times)
        problem.skipped_in_a_row += 1
        if problem.name not in self._warned:
            self._warned.add(problem.name)
            where = f"step {finding.step}, instruction {finding.instruction}"
            log.warning("%s is not finite (%s): such updates of %r are left out", finding.what, where, problem.name)

    def _handed_to_scalers(self, problem: LiveProblem, finding: Finding) -> str | None:
        """Let the scalers shrink that the step has gone through; why that cannot help, or ``None`` where it may."""
        scaled = [one for one in (problem, self.program.problems.get(finding.lower)) if one and one.scaler is not None]
        for one in scaled:
            back_off(one.scaler, one.parameters)
        if not scaled:
            return ""
        spent = [one for one in scaled if one.scaler.get_scale() < SMALLEST]
        if not spent:
            return None
        return f", although the loss scale of {spent[0].name!r} has shrunk to {spent[0].scaler.get_scale():.0e}"

    def _finding(self, frame: Frame) -> Finding:
        """The first thing in a step that is not finite."""
        for _, clue in self._clues(frame):
            if clue.failed or not all(map(_all_finite, clue.tree)):
                return self._found(frame, clue.at, clue.what, clue.lower)
        return self._found(frame, frame.at, f"the gradient of {frame.problem.name!r}")

    def _clues(self, frame: Frame) -> Iterator[tuple[int, Clue]]:
        assert frame.evaluation is not None
        name, first = frame.problem.name, frame.differentiated
        yield first, Clue(first, f"the loss of {name!r}", (frame.evaluation.loss,))
        yield from ((clue.at, clue) for clue in frame.clues)
        if not frame.clues:
            yield first, Clue(first, f"the gradient of the loss of {name!r}", frame.gradient)

    def _found(self, frame: Frame, at: int, what: str, lower: str = "") -> Finding:
        name = frame.problem.name
        instruction = f"%{at} {self.plan.step(name).instructions[at].op}"
        return Finding(problem=name, step=frame.problem.count, instruction=instruction, what=what, lower=lower)

    def _look_later(self, frame: Frame) -> None:
        self.settle(wait=len(self._pending) > len(self.plan.steps))
        clues = [clue for _, clue in self._clues(frame) if clue.tree]
        if frame.failed:
            raise NonfiniteError(self._finding(frame))
        findings = [self._found(frame, clue.at, clue.what, clue.lower) for clue in clues]
        self._queue([_flag(clue.tree) for clue in clues], findings)

    def _queue(self, flags: list[Tensor], findings: list[Finding]) -> None:
        found = torch.stack(flags).to("cpu", non_blocking=True)
        event = torch.Event(self.program.device.type) if self.program.device.type != "cpu" else None
        if event is not None:
            event.record()
        self._pending.append((event, found, findings))


def _sound(frame: Frame) -> bool:
    assert frame.evaluation is not None
    return math.isfinite(frame.evaluation.loss.item()) and finite(frame.gradient) and not frame.failed


def finite(tree: Sequence[Tensor]) -> bool:
    """Whether all entries are finite; the host waits for the answer."""
    if not tree:
        return True
    # A sum of squares overflows before its terms do; what is looked at twice is rare.
    lengths = [entire(length) for length in torch._foreach_norm(_bare(tree))]
    return math.isfinite(sum([length.item() for length in lengths])) or all(map(_all_finite, tree))


def _flag(tree: Sequence[Tensor]) -> Tensor:
    """Whether all entries are finite, on their device."""
    lengths = [entire(length) for length in torch._foreach_norm(_bare(tree), math.inf)]
    return torch.stack(lengths).float().sum().isfinite()


def _bare(tree: Sequence[Tensor]) -> list[Tensor]:
    return [leaf.detach() if leaf.requires_grad else leaf for leaf in tree]


def _all_finite(leaf: Tensor) -> bool:
    return bool(torch.isfinite(entire(leaf.detach())).all())
