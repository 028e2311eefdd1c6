"""What is kept of a problem's updates while they are made, as the plan asks for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from betty.backends.torch.objective import Sample
from betty.backends.torch.program import LiveProblem, Program
from betty.backends.torch.scaling import factor_of
from betty.backends.torch.tape import Edits, Reading, Segment, edits, holders, updated, write
from betty.backends.torch.trajectory.history import Micro
from betty.backends.torch.trajectory.tangents import Tangents
from betty.backends.torch.trajectory.tuning import show, tuned_groups, values_of
from betty.backends.torch.tree import Tree, detach, leaves
from betty.backends.torch.updates import Group, clip, rule_for
from betty.ir.plan import Plan, Step, Update


class Recorder:
    """Keeps graphs, records and tangents of all problems' updates, and begins trajectories anew.

    A micro-batch is :meth:`open`-ed before its loss is evaluated; an update is made by :meth:`update`.

    Args:
        plan: What to keep, of which problem.
        program: The problems; what is kept hangs on them.
    """

    def __init__(self, plan: Plan, program: Program) -> None:
        self.program = program
        self._into = passed_into(plan)
        # A problem that only tunes the optimiser, or is only the start, is none of the loss's business.
        self._read = {name: _those_in(program[name], names) for name, names in self._into.items()}
        self._updates = {step.problem: update for step in plan if (update := _update_of(step))}
        self._leaves: dict[str, tuple[tuple[int, ...], Tree]] = {}
        self._left: dict[str, Edits] = {}
        # Tapes that begin anew before they are full. Elsewhere linked segments would outlive the tape that drops them.
        self.recording = False
        """Whether updates whose graphs are kept are recorded as well."""
        self._whole = {step.problem for step in plan if program[step.problem].starts_from or step.ahead}
        for step in plan:
            self._make_room(plan, step)

    def _make_room(self, plan: Plan, step: Step) -> None:
        problem, update = self.program[step.problem], self._updates.get(step.problem)
        if update is None:
            return
        problem.tape = deque(problem.tape, maxlen=update.tape)
        # What an earlier executor of the same program has kept stays.
        problem.history.length = update.replay
        fresh = {target: _tangents(plan, step.problem, target) for target in update.tangents}
        known = problem.tangents
        problem.tangents = {key: known[key] if one.same_as(known.get(key)) else one for key, one in fresh.items()}

    def record(self) -> None:
        """From now on keep records beside graphs, from which a checkpoint can have them computed again."""
        self.recording = True
        for name, update in self._updates.items():
            if update.tape:
                self.program[name].history.length = max(update.replay, update.tape)

    def recorded(self, problem: LiveProblem) -> bool:
        """Whether the problem's updates are recorded."""
        item = self._updates.get(problem.name)
        return item is not None and bool(item.replay or (item.tape and self.recording))

    def into(self, name: str) -> tuple[str, ...]:
        """The problems into which looking back on the updates of ``name`` passes something."""
        return self._into[name]

    def looks(self, problem: LiveProblem) -> bool:
        """Whether anything of the problem's updates is kept."""
        item = self._updates.get(problem.name)
        return item is not None and bool(item.tape or item.replay or item.tangents)

    def replays(self, problem: LiveProblem) -> bool:
        """Whether micro-batches are evaluated again, with the draws that they had."""
        item = self._updates.get(problem.name)
        return item is not None and bool(self.recorded(problem) or item.tangents)

    def open(self, problem: LiveProblem, sample: Sample) -> dict[str, Tree]:
        """Before a micro-batch is evaluated; what stands in for parameters, if its graph is to be kept."""
        item = self._updates.get(problem.name)
        if item is None:
            return {}
        origin = None
        if (problem.count - 1) % item.every == 0:
            origin = self._anew(problem)
        self._note(problem, item, sample, origin)
        if not item.tape:
            return {}
        return self._open_segment(problem, origin)

    def _anew(self, problem: LiveProblem) -> Reading | None:
        """Begin at another problem's parameters, if that has stepped since this one has done so last."""
        name = problem.starts_from
        if not name or problem.started_at == self.program[name].count:
            return None
        source = self.program[name]
        problem.started_at = source.count
        with torch.no_grad():
            torch._foreach_copy_(list(problem.parameters), list(source.parameters))
        _optimizer(problem).state.clear()
        problem.tape.clear()
        return self._reading(name)

    def _note(self, problem: LiveProblem, item: Update, sample: Sample, origin: Reading | None) -> None:
        """What records and tangents need of a micro-batch."""
        first = (problem.count - 1) % item.every == 0
        if self.recorded(problem):
            history = problem.history
            if first:
                history.begin(problem, origin)
            assert history.open is not None
            others = [name for name in problem.objective.modules if name != problem.name]
            factor = factor_of(problem.scaler, problem.parameters[0])
            readings = tuple(self._reading(name) for name in others)
            history.open.micros.append(Micro(sample, readings, factor=factor))
        for tangents in problem.tangents.values():
            if first:
                tangents.begin(problem, self._live(tangents.by), origin.problem if origin else None)
            tangents.gain(problem, sample, self._live(tangents.by))

    def _open_segment(self, problem: LiveProblem, origin: Reading | None) -> dict[str, Tree]:
        """What stands in for the parameters in a differentiable update: copies, by which gradients can be taken."""
        if problem.open_segment is None:
            problem.open_segment = self._next_segment(problem)
            problem.open_segment.origin = origin
        stand_ins = {problem.name: problem.open_segment.before}
        for name in self._read[problem.name]:
            stand_ins[name] = problem.open_segment.read(self._reading(name))
        return stand_ins

    def _next_segment(self, problem: LiveProblem) -> Segment:
        """Where nobody has touched parameters and optimiser state since the last update, that is gone on from."""
        optimizer, tape = _optimizer(problem), problem.tape
        if len(tape) == tape.maxlen:
            self._whole.discard(problem.name)
        left = self._left.get(problem.name)
        if not tape or left is None or edits(problem.parameters, optimizer)[1] != left[1]:
            return Segment.open(problem.version, problem.parameters, optimizer)
        # Linked segments are swept at once; several processes have to meet between two updates.
        alone = problem.processes is None
        link = problem.name in self._whole and alone and not problem.objective.reruns
        return Segment.following(problem.version, tape[-1], link=link)

    def _reading(self, name: str) -> Reading:
        """A problem's parameters as they stand, as copies shared by all updates that read the same values."""
        problem = self.program[name]
        # Parameters change without an update as well: a callback projects them, a checkpoint is loaded.
        edits = _edits_of(problem)
        if name not in self._leaves or self._leaves[name][0] != edits:
            self._leaves[name] = (edits, leaves(problem.parameters))
        return Reading(name, problem.version, self._leaves[name][1])

    def _live(self, names: tuple[str, ...]) -> Mapping[str, Tree]:
        return {name: self.program.parameters(name) for name in names}

    def groups(self, problem: LiveProblem) -> tuple[Group | None, ...]:
        """Hyperparameters of each parameter for the update to come; the optimiser shows those that are tuned."""
        optimizer = _optimizer(problem)
        if problem.tuned:
            tuners = tuple({one.problem: None for one in problem.tuned})
            show(optimizer, values_of(problem.tuned, {name: detach(self.program.parameters(name)) for name in tuners}))
        return holders(optimizer, problem.parameters)

    def prepare(self, problem: LiveProblem, gradient: Tree, item: Update) -> tuple[Group | None, ...]:
        """Carry tangents through the update that ``gradient`` (averaged, not clipped) is about to make."""
        if not (problem.tuned or self.looks(problem)):
            return ()
        groups = self.groups(problem)
        for tangents in problem.tangents.values():
            tangents.gather(problem.together)
            tuners = tuple({one.problem: None for one in problem.tuned} | dict.fromkeys(tangents.by))
            tangents.close(problem, detach(gradient), groups, self._live(tuners), item.every)
        return groups

    def close_segment(self, problem: LiveProblem, groups: tuple[Group | None, ...]) -> None:
        """Make the update that the open segment stands for."""
        segment, optimizer = problem.open_segment, _optimizer(problem)
        rule = rule_for(optimizer)
        assert segment is not None and rule is not None
        readings = self._tuners(problem)
        tuners = {name: segment.read(reading) for name, reading in readings.items()}
        segment.close(rule, tuned_groups(groups, problem.tuned, tuners), problem.gradient_clipping)
        write(optimizer, problem.parameters, segment.after, segment.state_after, groups)
        self._left[problem.name] = edits(problem.parameters, optimizer)
        problem.tape.append(segment)
        problem.open_segment = None

    def move(self, problem: LiveProblem, gradient: Tree, groups: tuple[Group | None, ...]) -> bool:
        """Make the update by the differentiable rule, so that it can be computed again bit for bit.

        ``False``, and nothing has moved, if the optimiser has no such rule.
        """
        optimizer = _optimizer(problem)
        rule = rule_for(optimizer)
        if rule is None:
            return False
        states = [
            {key: value for key, value in optimizer.state.get(live, {}).items() if value is not None}
            for live in problem.parameters
        ]
        values = {name: detach(reading.tensors) for name, reading in self._tuners(problem).items()}
        after, states_after = updated(
            rule,
            detach(problem.parameters),
            clip(gradient, problem.gradient_clipping),
            states,
            tuned_groups(groups, problem.tuned, values),
        )
        write(optimizer, problem.parameters, after, states_after, groups)
        return True

    def closed(self, problem: LiveProblem, groups: tuple[Group | None, ...]) -> None:
        """Take the records of an update in, after it has been made."""
        if problem.history.open is not None:
            problem.history.close(problem, groups, tuple(self._tuners(problem).values()))

    def _tuners(self, problem: LiveProblem) -> dict[str, Reading]:
        return {one.problem: self._reading(one.problem) for one in problem.tuned}

    def state(self) -> dict[str, Any]:
        """What decides how updates to come are kept, for a checkpoint."""
        follows = {
            name: known[1] == edits(self.program.parameters(name), _optimizer(self.program[name]))[1]
            for name, known in self._left.items()
        }
        return {"whole": sorted(self._whole), "follows": follows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as another recorder of the same program would."""
        self._whole = set(state["whole"])
        self._left = {
            name: edits(self.program.parameters(name), _optimizer(self.program[name]))
            for name, follows in state["follows"].items()
            if follows
        }
        self._leaves.clear()
        for problem in self.program.problems.values():
            for reading in problem.history.readings():
                self._share(reading)

    def _share(self, reading: Reading) -> None:
        """Let updates to come read the very tensors of ``reading``, if it is of the present values.

        Gradients by one set of tensors are summed in another order than by two, which rounding shows.
        """
        source = self.program[reading.problem]
        pairs = zip(source.parameters, reading.tensors, strict=True)
        if reading.version == source.version and all(torch.equal(live, known) for live, known in pairs):
            self._leaves[reading.problem] = (_edits_of(source), reading.tensors)

    def stepped(self, target: str) -> None:
        """A target has taken its step: what was carried along for it begins anew, where the method says so."""
        for problem in self.program.problems.values():
            tangents = problem.tangents.get(target)
            if tangents is not None and tangents.reset:
                tangents.stale = True


def _edits_of(problem: LiveProblem) -> tuple[int, ...]:
    """How often a problem was updated, and its parameters written to."""
    return (problem.version, *(parameter._version for parameter in problem.parameters))


def _those_in(problem: LiveProblem, names: tuple[str, ...]) -> tuple[str, ...]:
    """The problems that a problem's loss reads, of some."""
    return tuple(name for name in names if name in problem.objective.modules)


def passed_into(plan: Plan) -> dict[str, tuple[str, ...]]:
    """For every problem, the problems into which looking back on its updates passes something."""
    found: dict[str, dict[str, None]] = {step.problem: {} for step in plan}
    for step in plan:
        for response in step.responses:
            if response.method.unrolled:
                found[response.problem].update((name, None) for name, _ in response.into)
    return {name: tuple(reads) for name, reads in found.items()}


def _tangents(plan: Plan, name: str, target: str) -> Tangents:
    """What is carried along of a problem's parameters for the responses in one target's hypergradient."""
    found = [
        response
        for response in plan.step(target).responses
        if response.problem == name and response.method.solver.name == "forward_mode"
    ]
    by = tuple(dict.fromkeys(read for response in found for read, _ in response.into))
    return Tangents(by, reset=any(bool(response.method.solver["reset"]) for response in found))


def _update_of(step: Step) -> Update | None:
    return next((item for item in step.instructions if isinstance(item, Update)), None)


def _optimizer(problem: LiveProblem) -> Optimizer:
    assert problem.optimizer is not None
    return problem.optimizer
