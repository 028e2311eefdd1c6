"""The live side of a plan: modules, losses, optimisers and data of every problem, and what each has done so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from betty.backends.torch.objective import Objective, Sample, trainable, trainable_names
from betty.backends.torch.stream import Stream
from betty.backends.torch.swap import Buffers
from betty.backends.torch.trajectory.history import History
from betty.backends.torch.trajectory.tuning import Tuned
from betty.backends.torch.tree import Tree

if TYPE_CHECKING:
    from betty.backends.torch.adaptation import LastUpdate
    from betty.backends.torch.ahead import Ahead
    from betty.backends.torch.processes import Processes
    from betty.backends.torch.reduction import Reduction
    from betty.backends.torch.tape import Segment
    from betty.backends.torch.trajectory.tangents import Tangents
    from betty.backends.torch.zero import Shares


class Hooks(Protocol):
    """What a program does itself around the updates of a problem."""

    @property
    def replaces(self) -> bool:
        """Whether :meth:`update` takes the place of the optimiser's step."""

    @property
    def edits(self) -> bool:
        """Whether :meth:`gradient` may change the gradient."""

    def gradient(self, parameters: Tree) -> None:
        """Look at, or change, the averaged gradient in ``.grad`` of the parameters, before it is clipped."""

    def update(self) -> None:
        """Move the parameters by what is in ``.grad``, clipped."""

    def updated(self, parameters: Tree) -> None:
        """Look at, or change, the parameters after an update."""


@dataclass(eq=False, kw_only=True)
class LiveProblem:
    """One problem at run time.

    Args:
        name: As in the plan.
        module: Owns the parameters.
        objective: The loss.
        optimizer: ``None`` where the problem is never updated.
        scheduler: Stepped after every update, or ``None``.
        stream: Micro-batches, or ``None`` where the loss takes no batch.
        gradient_clipping: Largest norm of an update's gradient, or ``None``.
        tuned: Hyperparameters of the optimiser that are parameters of other problems.
        starts_from: The problem at whose parameters this one begins anew after every step of it, or none.
        trained: Names of the parameters that are optimised, where these are not all that require a gradient.
        answers: Names of those among them that responses go through; all where ``None``.
        hooks: What the program does itself around an update.
        scaler: A ``torch.amp.GradScaler`` that keeps gradients in half precision from vanishing, or ``None``.
    """

    name: str
    module: nn.Module
    objective: Objective
    optimizer: Optimizer | None = None
    scheduler: Any = None
    stream: Stream | None = None
    gradient_clipping: float | None = None
    tuned: tuple[Tuned, ...] = ()
    starts_from: str = ""
    trained: tuple[str, ...] | None = None
    answers: tuple[str, ...] | None = None
    hooks: Hooks | None = None
    scaler: Any = None
    count: int = 0
    """Micro-batches so far."""
    version: int = 0
    """Updates so far."""
    kept: deque[Sample] = field(default_factory=deque)
    """The last micro-batches, for responses; as many as the plan's ``draw`` keeps."""
    tape: deque[Segment] = field(default_factory=deque)
    """The last differentiable updates; as many as the plan's ``update`` records."""
    open_segment: Segment | None = None
    """A differentiable update whose micro-batches are not complete yet."""
    history: History = field(default_factory=lambda: History(0))
    """Records of the last updates; as many as the plan's ``update`` replays."""
    tangents: dict[str, Tangents] = field(default_factory=dict)
    """Derivatives of the parameters that are carried along, by the target that they are for."""
    started_at: int = -1
    """Micro-batches of ``starts_from`` when this problem began anew; below zero before the first time."""
    accumulated: Tree | None = None
    """Sum of the gradients since the last update."""
    last: LastUpdate | None = None
    """What of the last update the optimiser's adaptation needs, where the plan has it remembered."""
    idle: set[int] = field(default_factory=set)
    """Positions of parameters that the losses of the present update have not used."""
    memories: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the responses in this problem's hypergradient have left for its next step, by slot."""

    skipped: int = 0
    """Updates that were left out."""
    skipped_in_a_row: int = 0
    """Of these, since the last one that was made, those that no gradient scaler has to answer for."""
    spoiled: bool = False
    """Whether a micro-batch of the present update was not finite."""
    drawn: int = 0
    """Micro-batches of the present update among those kept."""
    spared: deque[Sample] = field(default_factory=deque)
    """Kept micro-batches that those have pushed out."""
    ahead: Ahead | None = None
    """Where the problem goes back to, while it looks ahead."""
    seen: dict[str, int] = field(default_factory=dict)
    """Loops of unrolled updates of each lower that this problem's steps have followed, where a program's own order of
    events counts them."""

    processes: Processes | None = None
    """Those that train the program together; set by the program."""
    reduction: Reduction | None = None
    """The gradient of the update to come, where its mean over all processes is being taken already."""
    shares: Shares | None = None
    """Who updates which parameters, where the processes share the optimiser's state."""

    def __post_init__(self) -> None:
        self.parameters: Tree = trainable(self.module, self.trained)
        self.parameter_names: list[str] = trainable_names(self.module, self.trained)

    def together(self, tree: Tree) -> Tree:
        """The mean of a tree over all processes; a graph that it has is kept."""
        return tree if self.processes is None or not tree else self.processes.averaged(tree)

    def forget(self) -> None:
        """Drop what is kept of updates that have been made."""
        self.tape.clear()
        self.open_segment = None
        self.history.clear()
        for tangents in self.tangents.values():
            tangents.forget()

    def mark(self) -> Callable[[], None]:
        """A call that takes back what has been accumulated since; it does nothing once an update was made."""
        count, version, accumulated, segment = self.count, self.version, self.accumulated, self.open_segment
        gradient, read = (segment.gradient, len(segment.readings)) if segment else (None, 0)
        record = self.history.open
        micros = len(record.micros) if record else 0
        started_at, spoiled = self.started_at, self.spoiled
        carried = [tangents.mark() for tangents in self.tangents.values()]

        def undo() -> None:
            if self.version != version:
                return
            self.count, self.accumulated, self.open_segment = count, accumulated, segment
            if segment is not None:
                segment.gradient = gradient
                del segment.readings[read:]
            self.history.open, self.started_at, self.spoiled = record, started_at, spoiled
            if record is not None:
                del record.micros[micros:]
            for take_back in carried:
                take_back()

        return undo

    def named(self, tree: Tree) -> dict[str, Tensor]:
        """A tree of this problem's shape as a dict by parameter name."""
        return dict(zip(self.parameter_names, tree, strict=True))


@dataclass(eq=False, kw_only=True)
class Program:
    """All live problems by name, on one device; of several processes, as one of them sees it."""

    problems: dict[str, LiveProblem]
    device: torch.device
    processes: Processes | None = None

    def __post_init__(self) -> None:
        for problem in self.problems.values():
            problem.processes = self.processes

    def __getitem__(self, name: str) -> LiveProblem:
        return self.problems[name]

    def parameters(self, name: str) -> Tree:
        return self.problems[name].parameters


@contextmanager
def preserved(program: Program) -> Iterator[None]:
    """Spare the buffers of all modules; they are as before afterwards, bit for bit, also after an exception."""
    # Written values could not simply be copied back: graphs that are kept may have saved the buffers themselves.
    with ExitStack() as stack:
        stack.enter_context(Buffers(problem.module for problem in program.problems.values()).spared())
        for undone in {
            id(one): one for one in (problem.objective.undone for problem in program.problems.values())
        }.values():
            stack.enter_context(undone())
        yield
