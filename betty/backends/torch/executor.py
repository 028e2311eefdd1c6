"""The executor: follows the instructions of a plan, step by step."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from typing import Any, cast

from torch import Tensor

from betty.backends.torch.adaptation import remember
from betty.backends.torch.ahead import Ahead
from betty.backends.torch.finite import Watch
from betty.backends.torch.frame import Frame, Outcome, fill, whole
from betty.backends.torch.methods import Occasion, Status
from betty.backends.torch.moving import advance, descend, edited
from betty.backends.torch.objective import Sample
from betty.backends.torch.overlap import last_pass, overlapping
from betty.backends.torch.program import LiveProblem, Program, preserved
from betty.backends.torch.random import RandomState, replaying
from betty.backends.torch.respond import (
    aid_of,
    answer_by_estimate,
    answer_by_solve,
    answer_by_trajectory,
    moved,
    multitask,
    standing,
)
from betty.backends.torch.skipping import keep, kept_no_more, leave_out, silent
from betty.backends.torch.tape import Adjoint
from betty.backends.torch.trajectory.recorder import Recorder
from betty.backends.torch.trajectory.replay import player
from betty.backends.torch.tree import Tree, add, assign, detach, narrow, scale, wide
from betty.backends.torch.updates import clip
from betty.ir.methods import Method
from betty.ir.plan import Differentiate, Draw, Instruction, Plan, Respond, Step, Update

log = logging.getLogger("betty")

Around = Callable[[Step, int, Callable[[], None]], None]
"""Runs one instruction; a profiler measures around it."""


class Executor:
    """Runs steps of a plan on a live program.

    Args:
        plan: What to do.
        program: What to do it with; changed in place.
        around: Called instead of each instruction with (step, index of the instruction, the instruction as a call).
    """

    def __init__(self, plan: Plan, program: Program, around: Around | None = None) -> None:
        self.plan, self.program, self.around = plan, program, around
        self._steps = {step.problem: step for step in plan}
        self.recorder, self.watch = Recorder(plan, program), Watch(plan, program)
        self._every = {step.problem: _every(step) for step in plan}
        self._responding = {step.problem for step in plan if step.responses}
        self._reported: set[tuple[str, Status]] = set()
        self._random: RandomState | None = None
        self._run: dict[type[Instruction], Callable[[Frame, Any], None]] = {
            Draw: self._draw,
            Differentiate: self._differentiate,
            Respond: self._respond,
            Update: self._update,
        }
        for step in plan:
            self._make_room(step)

    def _make_room(self, step: Step) -> None:
        """Bound the memories of a problem to what the plan keeps."""
        problem = self.program[step.problem]
        for item in step.instructions:
            if isinstance(item, Draw):
                problem.kept = deque(problem.kept, maxlen=item.keep)

    def step(self, name: str) -> Outcome:
        """One step of a problem, parameters and all.

        A step that is cut short before its update leaves no part of its gradient behind.
        """
        problem = self.program[name]
        undo = problem.mark()
        buffers = problem.objective.buffers.values() if self.watch.spares(problem) else None
        try:
            outcome = self._follow(Frame(problem, buffers=buffers), self._steps[name].instructions)
        except BaseException:
            undo()
            problem.reduction = None
            raise
        self.recorder.stepped(name)
        return outcome

    def look_ahead(self, name: str) -> None:
        """Before the first step of a loop: keep where the problem stands, if its updates are to be taken back.

        A loop that ends within the problem's warm-up is none: nobody answers it.
        """
        step, problem = self._steps[name], self.program[name]
        if not step.ahead or problem.ahead is not None or problem.starts_from:
            return
        if problem.count + step.ahead > self._warm_up(name):
            problem.ahead = Ahead.taken(self.program, problem, step.answered_by)

    def settle(self, name: str) -> Outcome | None:
        """Take a look-ahead back that a problem above has answered, and make one real update in its place.

        The update is made on the micro-batches of the look-ahead's last update, with draws of its own; the schedule
        goes on with it. ``None`` where there is nothing to take back yet.
        """
        problem = self.program[name]
        ahead, count, every = problem.ahead, problem.count, self._every[name]
        if ahead is None or count % every or not problem.kept or not ahead.answered(self.program):
            return None
        # After a checkpoint from the middle of an update some of its micro-batches may be missing.
        samples = list(islice(cycle(tuple(problem.kept)[-every:]), every))
        ahead.put_back(problem)
        problem.ahead, problem.count = None, count - every
        try:
            for sample in samples:
                outcome = self._again(problem, sample)
        except BaseException:
            problem.ahead, problem.count, problem.accumulated = ahead, count, None
            raise
        finally:
            problem.forget()
        return outcome

    def _again(self, problem: LiveProblem, sample: Sample) -> Outcome:
        """A step on a micro-batch that was drawn before."""
        buffers = problem.objective.buffers.values() if self.watch.spares(problem) else None
        frame = Frame(problem, given={problem.name: sample}, buffers=buffers)
        return self._follow(frame, self._steps[problem.name].instructions)

    def _warm_up(self, name: str) -> int:
        return max((least for step in self.plan for lower, least in step.after if lower == name), default=0)

    def hypergradient(self, name: str, given: Mapping[str, Any] | None = None) -> Outcome:
        """The (hyper)gradient of a problem at the current parameters; nothing is changed.

        Without a batch in ``given``, the problem itself takes the micro-batch that its stream gives next, and a lower
        those of its last update (the next one of its stream where there are none). Buffers, random states, counters
        and streams are as before afterwards.
        """
        frame = Frame(self.program[name], given=given or {}, dry=True)
        instructions = [item for item in self._steps[name].instructions if not isinstance(item, Update)]
        with replaying(None, self.program.device), preserved(self.program):
            return self._follow(frame, instructions)

    def _follow(self, frame: Frame, instructions: Sequence[Instruction]) -> Outcome:
        name = frame.problem.name
        for index, item in enumerate(instructions):
            run, frame.at = self._run[type(item)], index
            try:
                if self.around is None:
                    run(frame, item)
                else:
                    self.around(self._steps[name], index, partial(run, frame, item))
            except Exception as error:
                error.add_note(f"in instruction %{index} ({item.op}) of problem {name!r}, step {frame.problem.count}")
                raise
        # At the end: other responses of this step look at the lowers where they stand.
        for lower, tree in frame.moved.items():
            assign(self.program.parameters(lower), tree)
        assert frame.evaluation is not None
        fill(frame)
        if frame.dry:
            frame.gradient = frame.problem.together(frame.gradient)
        metrics = {**frame.evaluation.metrics, **frame.metrics}
        if not frame.dry and self.watch.spares(frame.problem):
            metrics["skipped"] = float(frame.problem.skipped)
        return Outcome(name, frame.evaluation.loss.detach(), metrics, frame.gradient)

    def _draw(self, frame: Frame, item: Draw) -> None:
        problem = frame.problem
        batch, weight = frame.given.get(problem.name), 1.0
        if batch is None and problem.name not in frame.given and problem.stream is not None:
            batch = problem.stream.peek() if frame.dry else problem.stream.next()
            weight = 1.0 if self.program.processes is None else problem.stream.weight
        if isinstance(batch, Sample):
            batch, weight = batch.batch, batch.weight
        host = problem.objective.host_draws
        replays = self.recorder.replays(problem)
        known = self._random if replays else None  # many are kept
        state = RandomState.capture(self.program.device, host=host, known=known) if replays or item.keep else None
        self._random = state if replays else self._random
        frame.sample = Sample(batch, state, weight)
        if not frame.dry:
            problem.count += 1
            if item.keep:
                keep(problem, frame.sample)

    def _differentiate(self, frame: Frame, item: Differentiate) -> None:
        assert frame.sample is not None
        problem, frame.differentiated = frame.problem, frame.at
        stand_ins = {} if frame.dry else self.recorder.open(problem, frame.sample)
        own, taped = stand_ins.get(problem.name, problem.parameters), bool(stand_ins)
        if not frame.dry and self.recorder.looks(problem):
            with problem.objective.differentiable():
                frame.evaluation = problem.objective.standing_in(
                    frame.sample.batch, stand_ins, frame.sample.weight, buffers=False
                )
        else:
            frame.evaluation = problem.objective.live(frame.sample.batch, frame.sample.weight)
        seeds = {name: stand_ins.get(name, self.program.parameters(name)) for name, _ in item.adjoints}
        inputs = own + tuple(leaf for tree in seeds.values() for leaf in tree)
        # Activation checkpointing evaluates the module again.
        rerun = problem.objective.holding(stand_ins if problem.objective.reruns else {})
        with rerun, overlapping(frame, self._steps[problem.name], taped):
            found = problem.objective.derivative(
                frame.evaluation.loss, inputs, problem.scaler, create_graph=taped, allow_unused=True
            )
        parts = cast("Sequence[Tensor | None]", found)
        if not frame.dry:
            self._note_idle(problem, parts[: len(own)])
        start = len(own)
        if item.adjoints and all(part is None for part in parts[:start]):
            frame.gradient = ()  # the responses make the whole of it
        else:
            frame.gradient = whole(own, parts[:start])
            if item.adjoints:
                frame.differentiated_by("", frame.gradient)
        for name, slot in item.adjoints:
            tree = wide(detach(whole(seeds[name], parts[start : start + len(seeds[name])])))
            start += len(tree)
            frame.differentiated_by(name, tree)
            self._gain(frame, slot, name, self.program[name].version, tree)

    def _note_idle(self, problem: LiveProblem, gradient: Sequence[Tensor | None]) -> None:
        """Note what no micro-batch of the update has used: an optimiser leaves it alone, weight decay and all."""
        if problem.name in self._responding:
            return  # responses may reach what the loss itself does not use
        unused = {index for index, part in enumerate(gradient) if part is None}
        first = (problem.count - 1) % self._every[problem.name] == 0
        problem.idle = unused if first else problem.idle & unused

    def _respond(self, frame: Frame, item: Respond) -> None:
        adjoint = frame.adjoints.pop(item.slot, None)
        if adjoint is None:
            return
        into, lower = dict(item.into), self.program[item.problem]
        if not frame.dry and silent(lower, item.method):
            frame.silent = True
            return
        if self.program.processes is not None and not item.local:
            adjoint = adjoint.map(frame.problem.together)
        if item.method.trajectory:
            for name, version, tree in answer_by_trajectory(lower, adjoint, item, frame.problem.name):
                frame.responded(item, tree)
                self._gain(frame, into[name], name, self.program[name].version if version is None else version, tree)
            return
        for name, tree in self._gains(frame, item, adjoint).items():
            frame.responded(item, tree)
            self._gain(frame, into[name], name, self.program[name].version, tree)

    def _gains(self, frame: Frame, item: Respond, adjoint: Adjoint) -> Mapping[str, Tree]:
        """What an implicit method or an estimator finds at the point where the lower stands."""
        lower = self.program[item.problem]
        reads = {name: self.program.parameters(name) for name, _ in item.into}
        point = standing(lower, self._samples(frame, lower, item.method), reads)
        memory = self._memory(frame, item.slot)
        if item.method.implicit:
            aid = aid_of(lower, memory.get("solution"), seed=frame.problem.version)
            point = replace(point, last=last_pass(frame, self._steps[frame.problem.name], item, point))
            gains, solution = answer_by_solve(point, adjoint, item.method, aid)
            status, stats = solution.status, solution.stats
            if not frame.dry and multitask(item.method):
                frame.moved[lower.name] = moved(point, item.method, solution.value)
            if dict(item.method.solver.options).get("warm_start"):
                memory["solution"] = solution.value
        else:
            assert frame.evaluation is not None
            again = player(lower, item.method.steps or 1) if item.method.sees_updates else None
            # A dry run draws what the step to come will draw.
            seed = frame.problem.count + frame.dry
            occasion = Occasion(frame.evaluation.loss.detach(), memory, seed, frame.problem.version, again)
            answer = answer_by_estimate(point, adjoint, item.method, occasion)
            gains, status, stats = dict(answer.gains), answer.status, answer.stats
        if status is Status.NONFINITE:
            frame.responded(item, (), failed=True)
        self._report(item, status)
        frame.metrics.update({f"{item.slot}.{key}": value for key, value in stats.items()})
        return gains

    def _memory(self, frame: Frame, slot: str) -> dict[str, Any]:
        """What the response in ``slot`` has left at the target's last step, to be changed if this step counts."""
        return frame.memories.setdefault(slot, dict(frame.problem.memories.get(slot, {})))

    def _report(self, item: Respond, status: Status) -> None:
        """Say once what is wrong with a solve; running out of iterations is what an option asks for."""
        if status in (Status.OK, Status.ITERATIONS) or (item.slot, status) in self._reported:
            return
        self._reported.add((item.slot, status))
        log.warning("the response of %r by %s %s", item.problem, item.method.to_text(), status.value)

    def _samples(self, frame: Frame, lower: LiveProblem, method: Method) -> tuple[Sample, ...]:
        """The micro-batches of the lower's last update, or of as many as the method looks back on."""
        if lower.name in frame.given:
            return (Sample(frame.given[lower.name]),)
        if not lower.kept and frame.dry:
            if lower.stream is None:
                return (Sample(None),)
            return (Sample(lower.stream.peek(), weight=lower.stream.weight),)
        every = self._every[lower.name]
        return tuple(lower.kept)[-every * (method.steps or 1) :]

    def _gain(self, frame: Frame, slot: str, name: str, version: int, tree: Tree) -> None:
        if slot:
            frame.adjoints.setdefault(slot, Adjoint()).gain(version, tree)
        else:
            frame.gradient = add(frame.gradient, tree) if frame.gradient else tree
            frame.gains = add(frame.gains, tree) if frame.gains else tree

    def _update(self, frame: Frame, item: Update) -> None:
        problem = frame.problem
        fill(frame)
        if not self.watch.admits(frame):
            problem.spoiled = True
        elif frame.gains and problem.history.open is not None:
            problem.history.open.micros[-1].gains = detach(frame.gains)
        if problem.spoiled:
            pass
        elif item.tape:
            assert problem.open_segment is not None
            problem.open_segment.gain(frame.gradient)
        else:
            known = problem.accumulated
            gradient = wide(frame.gradient) if item.every > 1 else frame.gradient
            problem.accumulated = gradient if known is None else add(known, gradient)
        if problem.count % item.every:
            return
        if problem.spoiled or not self._apply(frame, item):
            leave_out(problem)
            return
        self.watch.made(problem)
        kept_no_more(problem)
        problem.version += 1
        advance(problem, frame)

    def _apply(self, frame: Frame, item: Update) -> bool:
        """Make an update; whether it was made."""
        problem = frame.problem
        gradient, several = self._averaged(problem, item), item.every > 1 or self.program.processes is not None
        if problem.hooks is not None and problem.hooks.edits and not item.tape:
            gradient, several = edited(problem, gradient), True
        if several and not self.watch.passes_update(frame, gradient):
            return False
        if item.remember:
            assert problem.optimizer is not None
            clipped = clip(detach(gradient), problem.gradient_clipping)
            last = remember(problem.optimizer, problem.parameters, clipped)
            problem.last = last if problem.shares is None else problem.shares.own(last)
        groups = self.recorder.prepare(problem, gradient, item)
        if problem.idle:
            groups = tuple(None if index in problem.idle else group for index, group in enumerate(groups))
        if item.tape:
            self.recorder.close_segment(problem, groups)
        elif not (item.replay and self.recorder.move(problem, gradient, groups)):
            descend(problem, gradient)
        if problem.hooks is not None:
            problem.hooks.updated(problem.parameters)
        self.recorder.closed(problem, groups)
        return True

    def _averaged(self, problem: LiveProblem, item: Update) -> Tree:
        """The mean gradient of an update's micro-batches, with its graph where that is kept."""
        segment = problem.open_segment if item.tape else None
        gradient = (segment.gradient if segment else problem.accumulated) or ()
        if item.every > 1:
            gradient = scale(1 / item.every, gradient)
        if problem.reduction is not None:
            gradient, problem.idle = problem.reduction.finish(gradient, problem.idle)
            problem.reduction = None
        elif self.program.processes is not None:
            gradient, problem.idle = self.program.processes.averaged_with(gradient, problem.idle)
        if segment is not None:
            segment.gradient = gradient
        problem.accumulated = None
        return narrow(gradient, problem.parameters)


def _every(step: Step) -> int:
    """Micro-batches that make one update."""
    return next((item.every for item in step.instructions if isinstance(item, Update)), 1)
