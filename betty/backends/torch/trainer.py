"""The loop: iterations of a plan, with validation, early stopping and observers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from betty.backends.torch.errors import RunError
from betty.backends.torch.executor import Executor
from betty.backends.torch.finite import NonfiniteError
from betty.backends.torch.frame import Outcome
from betty.backends.torch.objective import View
from betty.backends.torch.processes import Meeting, Processes
from betty.backends.torch.program import Program, preserved
from betty.backends.torch.random import RandomState, replaying
from betty.backends.torch.stream import to_device
from betty.backends.torch.tree import sharded
from betty.ir.diagnostics import listing, nearest
from betty.ir.plan import Step

Row = dict[str, float]


class Observer(Protocol):
    """Told of what happens in a run; nothing that an observer does changes the run."""

    def started(self, iteration: int, last: int) -> None:
        """The loop begins after ``iteration`` iterations and will end after ``last``."""

    def iterated(self, iteration: int) -> None:
        """An iteration is done. Called every time: no synchronisation with the device here."""

    def recorded(self, iteration: int, row: Row) -> None:
        """A row of metrics: losses and metrics as ``problem.metric``, and ``validate.metric`` where it was due."""

    def went_back(self, iteration: int) -> None:
        """The run stands again where it stood after ``iteration`` iterations: later rows come again."""

    def ended(self, iteration: int, reason: str) -> None:
        """The loop is over.

        The reason is ``finished``, ``stopped early``, ``interrupted``, ``terminated`` or ``failed`` (an exception
        follows).
        """


class Measures(Protocol):
    """What a run is measured by, every so many iterations."""

    @property
    def every(self) -> int:
        """Iterations between two measurements; 0 for none at the moment."""

    @property
    def at_end(self) -> bool:
        """Whether the last iteration is measured in any case."""

    def measure(self, program: Program) -> Row:
        """Numbers by name."""


@dataclass(frozen=True, eq=False)
class Validation:
    """A function that measures the problems, called every so many iterations, without gradients, in eval mode.

    Tensors that it makes are made on the run's device, and what it passes to a problem is moved to that problem's
    device and precision: a function written for a CPU and single precision measures any run.
    """

    function: Callable[..., Any]
    reads: tuple[str, ...]
    every: int = 100
    at_end: bool = True
    processes: Processes | None = None
    """Of several, the first measures; the others wait for it and learn what it has found. Where they share the
    parameters of a module all of them measure."""

    def measure(self, program: Program) -> Row:
        """Numbers by name; the program is as before afterwards (modes, buffers and random states).

        Raises:
            RunError: The function returned neither a number nor a dict of numbers.
        """
        if self.processes is None:
            return self._measured(program)
        if any(sharded(leaf) for problem in program.problems.values() for leaf in problem.parameters):
            found = self._measured(program)  # all of them take part in gathering what a module computes with
            return cast("Row", self.processes.told(found))
        return self.processes.by_first(lambda: self._measured(program), "validate")

    def _measured(self, program: Program) -> Row:
        views = {name: _Placed(name, program[name].module, fixed=True) for name in self.reads}
        quiet = (torch.no_grad(), evaluating(program), replaying(None, program.device), preserved(program))
        with ExitStack() as stack:
            for context in (*quiet, program.device):
                stack.enter_context(context)
            found = self.function(**views)
        if not isinstance(found, Mapping):
            found = {getattr(self.function, "__name__", "value"): found}
        try:
            return {str(key): float(value) for key, value in found.items()}
        except (TypeError, ValueError) as error:
            raise RunError(f"validate returned what is no number: {error}") from error


class _Placed(View):
    """A view that moves its inputs to where its parameters are."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        like = next(self._module.parameters(), None)
        if like is None:
            return super().__call__(*args, **kwargs)
        dtype = like.dtype if like.is_floating_point() else None
        placed, named = to_device((args, kwargs), like.device, dtype)
        return super().__call__(*placed, **named)


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """End the run after ``patience`` validations in which ``metric`` was not better than before."""

    metric: str
    mode: Literal["min", "max"] = "min"
    patience: int = 5
    who: str = "early stopping"
    """Who asks, for messages."""


@dataclass
class Patience:
    """How long a run goes on without improvement; called with every validation, it says whether to end.

    Args:
        rule: What to watch.
        best: The best value so far, negated where more is better.
        waited: Validations without improvement.
    """

    rule: EarlyStopping
    best: float = math.inf
    waited: int = 0

    def __call__(self, row: Mapping[str, Any]) -> bool:
        """Take in a validation; whether patience is exhausted.

        Raises:
            RunError: The watched metric is missing.
        """
        if self.rule.metric not in row:
            hint = nearest(self.rule.metric, list(row))
            raise RunError(
                f"{self.rule.who} watches {self.rule.metric!r}, which validate does not return; "
                f"it returns {listing(list(row))}" + (f" (did you mean {hint!r}?)" if hint else "")
            )
        value = float(row[self.rule.metric]) * (1 if self.rule.mode == "min" else -1)
        better = value < self.best
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return self.waited >= self.rule.patience


@dataclass(eq=False)
class Trainer:
    """Runs a plan iteration by iteration; may be called again and goes on where it was.

    Args:
        executor: Runs the steps.
        validation: Measured every ``validation.every`` iterations and at the end.
        early_stopping: When to end before time.
        record_every: Iterations between two rows of metrics.
        random: Random states to run from; the run's own, so that neither what else draws in this process nor another
            run changes it, and the caller's generators stand after a run where they stood before.
        shared: Draw from the process's own generators instead, which a program seeds itself.
    """

    executor: Executor
    validation: Measures | None = None
    early_stopping: EarlyStopping | None = None
    record_every: int = 10
    random: RandomState | None = None
    observers: Sequence[Observer] = ()
    iterate: Callable[[], None] | None = None
    """What an iteration does, where the program has its own order of events; each step is told to :meth:`note`."""
    shared: bool = False
    iteration: int = 0
    """Iterations done."""
    patience: Patience | None = None
    """Of the present run, where it may end before time."""
    validated: Row = field(default_factory=dict)
    """The last validation."""
    validated_at: int = -1
    """Iterations done by then."""
    best: float = math.inf
    """The best value of what checkpoints are compared by, negated where more is better."""
    latest: dict[str, Outcome] = field(default_factory=dict)
    """What the last step of each problem has given."""
    asked: Callable[[], str] = str
    """Why the run is to end after the present iteration; empty while it is not."""
    cut: bool = False
    """Whether the last run has ended within an iteration."""
    rescue: Callable[[NonfiniteError], int] | None = None
    """Asked what to do about numbers that are not finite: to go back to an iteration, or to raise."""
    checkpoint_every: int = 0
    """Iterations between two checkpoints that an observer makes; 0 for none."""
    resumed: bool = False
    """Whether the next run goes on from a saved state, patience included."""
    _drawing: bool = False

    def __post_init__(self) -> None:
        self._renew_patience()

    def _renew_patience(self) -> None:
        self.patience = Patience(self.early_stopping) if self.early_stopping else None

    def run(self, iterations: int) -> str:
        """``iterations`` more iterations; why the loop ended.

        It ends early where it is :attr:`asked` to, after the iteration at hand. A ``KeyboardInterrupt`` ends it too;
        what that cuts short is the step it fell into.
        """
        with self.drawing():
            return self._run(iterations)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw as the run draws; its random states move on."""
        if self.shared:
            yield
            return
        with replaying(self.random, self.executor.program.device):
            try:
                self._drawing = True
                yield
            finally:
                self._drawing = False
                self.random = RandomState.capture(self.executor.program.device)

    def standing(self) -> RandomState:
        """The random states from which the run goes on."""
        if self.random is None or self.shared or self._drawing:
            return RandomState.capture(self.executor.program.device)
        return self.random

    def stand(self, random: RandomState) -> None:
        """Go on from other random states."""
        if self.shared or self._drawing:
            random.restore(self.executor.program.device)
        else:
            self.random = random

    def _run(self, iterations: int) -> str:
        last, reason = self.iteration + iterations, "finished"
        if not self.resumed:
            self._renew_patience()
        self.resumed = self.cut = False
        meeting = Meeting(self.executor.program.processes, self.asked)
        self._tell("started", self.iteration, last)
        try:
            while self.iteration < last:
                try:
                    self._iterate_and_tell(last)
                except NonfiniteError as error:
                    self._rescued(error)
                    continue
                if self.patience and self._validation_due() and self.patience(self.validated):
                    reason = "stopped early"
                    break
                if self.iteration < last and (asked := meeting()):
                    reason = asked
                    break
        except KeyboardInterrupt:
            reason, self.cut = self.asked() or "interrupted", True
        except BaseException:
            self._tell("ended", self.iteration, "failed")
            raise
        self._tell("ended", self.iteration, reason)
        return reason

    def _iterate_and_tell(self, last: int) -> None:
        self.iterate_once()
        final, every = self.iteration == last, self.checkpoint_every
        due = final or self.iteration % self.record_every == 0 or self._validation_due()
        self.executor.watch.settle(wait=due or bool(every and self.iteration % every == 0))
        row = self._row(final)
        if row:
            self._tell("recorded", self.iteration, row)
        self._tell("iterated", self.iteration)

    def _rescued(self, error: NonfiniteError) -> None:
        if self.rescue is None:
            raise error.told(self.iteration) from None
        iteration = self.rescue(error)
        self._tell("went_back", iteration)

    def iterate_once(self) -> None:
        """One iteration."""
        self.iteration += 1
        (self.iterate or self.advance)()

    def advance(self) -> None:
        """The steps of the present iteration, in the order of the plan, and the real updates that follow them."""
        executor = self.executor
        for step in executor.plan:
            if self.iteration % step.period == 0 and self._warm(step):
                if step.ahead and self._begins(step):
                    executor.look_ahead(step.problem)
                self.note(executor.step(step.problem))
        self.settle()

    def settle(self) -> None:
        """Take back every look-ahead that has been answered, highest problems first.

        So the real update of a problem in the middle answers to the look-ahead of those below it, as its look-ahead
        did, and theirs come after its own.
        """
        for step in sorted((one for one in self.executor.plan if one.ahead), key=lambda one: -one.level):
            outcome = self.executor.settle(step.problem)
            if outcome is not None:
                self.note(outcome)

    def note(self, outcome: Outcome) -> None:
        """Take in what a step has given, for the next row of metrics."""
        # Metrics are all that is looked at later: the gradient would take as much room as the parameters, or more.
        self.latest[outcome.problem] = Outcome(outcome.problem, outcome.loss, outcome.metrics, ())

    def _begins(self, step: Step) -> bool:
        """Whether this is a problem's first step since one above it may have stepped."""
        after = min(self.executor.plan.step(upper).period for upper in step.answered_by)
        return (self.iteration - step.period) % after == 0

    def _warm(self, step: Step) -> bool:
        return all(self.executor.program[lower].count > least for lower, least in step.after)

    def _validation_due(self) -> bool:
        every = self.validation.every if self.validation is not None else 0
        return every > 0 and self.iteration % every == 0

    def _row(self, final: bool) -> Row:
        """The metrics of this iteration, empty where none are due; the one place where the device is waited for."""
        row: Row = {}
        if final or self.iteration % self.record_every == 0:
            row.update(self._together(_numbers(self.latest)))
        if self.validation is not None and ((final and self.validation.at_end) or self._validation_due()):
            self.validated = self.validation.measure(self.executor.program)
            self.validated_at = self.iteration
            row.update((f"validate.{key}", value) for key, value in self.validated.items())
        return row

    def _together(self, row: Row) -> Row:
        """The mean over all processes: each has seen its part of the batches."""
        processes = self.executor.program.processes
        return row if processes is None else processes.mean_row(row)

    def _tell(self, event: str, *arguments: Any) -> None:
        for observer in self.observers:
            if (told := getattr(observer, event, None)) is not None:
                told(*arguments)


def _numbers(outcomes: Mapping[str, Outcome]) -> Row:
    """Losses and metrics of the last steps as floats, in one transfer."""
    named = {
        f"{name}.{key}": value
        for name, outcome in outcomes.items()
        for key, value in {"loss": outcome.loss, **outcome.metrics}.items()
    }
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor) and value.numel() == 1}
    row = {key: float(value) for key, value in named.items() if isinstance(value, int | float)}
    if tensors:
        stacked = torch.stack([value.detach().double().reshape(()) for value in tensors.values()])
        row.update(zip(tensors, stacked.tolist(), strict=True))
    return {key: row[key] for key in named if key in row}


@contextmanager
def evaluating(program: Program) -> Any:
    """All modules in eval mode; each submodule's own mode is put back afterwards."""
    modules = [module for problem in program.problems.values() for module in problem.module.modules()]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
