"""The execution plan: what happens in one step of each problem, as data.

A plan is a list of steps in the order of one iteration; a step is a list of instructions over *slots*. A slot names
an adjoint under accumulation. The executor follows the instructions and knows nothing else of the program's shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from betty.ir.methods import Method
from betty.ir.valuations import ValuationMethod


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Expected work and memory of one instruction: floating-point operations, and bytes that it holds at its peak."""

    flops: int = 0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Expected operations of all processes in one call of an instruction, and the bytes that each gives to them."""

    calls: int = 0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most bytes that the program is expected to hold at once.

    Args:
        fixed: Parameters and optimiser states.
        kept: Micro-batches, graphs of updates that responses look back on, and derivatives that are carried along.
        step: What the instruction takes beside that takes most.
        problem: Whose step has it.
        op: Which instruction it is.
    """

    fixed: int = 0
    kept: int = 0
    step: int = 0
    problem: str = ""
    op: str = ""

    @property
    def bytes(self) -> int:
        return self.fixed + self.kept + self.step


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One thing to do.

    Args:
        estimate: Work and memory; ``None`` where no trace was made.
        exchange: What processes exchange; ``None`` where they exchange nothing, or there is only one.
    """

    estimate: Estimate | None = None
    exchange: Exchange | None = None

    @property
    def op(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True, kw_only=True)
class Draw(Instruction):
    """Take the next micro-batch of the step's problem; keep the last ``keep`` with their random states.

    A problem that answers adjoints keeps those of its last update, so that its response is that of the loss it
    has just descended.
    """

    keep: int = 0


@dataclass(frozen=True, kw_only=True)
class Differentiate(Instruction):
    """Evaluate the loss; one backward pass gives the direct gradient and the adjoints that start here."""

    adjoints: tuple[tuple[str, str], ...] = ()
    """Pairs of a problem that the loss reads and the slot that its derivative starts."""


@dataclass(frozen=True, kw_only=True)
class Respond(Instruction):
    """Consume the adjoint in ``slot``; what ``problem`` reads gains the response, as ``method`` approximates it.

    ``into`` pairs each problem read with the slot that gains; the empty slot is the hypergradient itself. Of several
    processes each answers its own adjoint where this is ``local``, not their mean.
    """

    problem: str
    slot: str
    method: Method
    into: tuple[tuple[str, str], ...]
    edge: str = ""
    reason: str = ""
    local: bool = False


@dataclass(frozen=True, kw_only=True)
class Update(Instruction):
    """Let the optimiser apply the gradient of every ``every``-th micro-batch, averaged; then the scheduler steps.

    Args:
        optimizer: Short name of the optimiser's class.
        every: Micro-batches that make one update.
        tape: Above zero, the update is differentiable, and the graphs of the last ``tape`` updates are kept.
        replay: Updates of which everything is kept that it takes to compute them again.
        tangents: Targets for which the derivative of the parameters by what the loss reads is carried along.
        remember: Whether what the optimiser's adaptation is computed from is kept.
    """

    optimizer: str = ""
    every: int = 1
    tape: int = 0
    replay: int = 0
    tangents: tuple[str, ...] = ()
    remember: bool = False


@dataclass(frozen=True, kw_only=True)
class Fit(Instruction):
    """Gather the statistics of ``method`` over the training examples of ``problem``, in so many ``passes``.

    A pass is the forward and backward pass of every example.
    """

    problem: str
    method: ValuationMethod
    passes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Log(Instruction):
    """Store the gradient of the loss of every training example of ``problem``.

    Args:
        problem: Whose examples.
        method: In which form.
        edge: To their weights.
        reason: Why the method was chosen; empty where the user chose it.
        passes: Over the training examples.
        examples: How many there are; 0 where not known, as below.
        size: Numbers stored for each example.
        dtype: Of the store.
        stored: Bytes of the store.
    """

    problem: str
    method: ValuationMethod
    edge: str = ""
    reason: str = ""
    passes: float = 1.0
    examples: int = 0
    size: int = 0
    dtype: str = "fp32"
    stored: int = 0


@dataclass(frozen=True, kw_only=True)
class Score(Instruction):
    """Take the gradients of queries, let ``method`` answer them and multiply them with the store.

    Args:
        problem: Whose examples are scored.
        method: How queries are answered.
        queries: How many there are in the program's own data; 0 where not known.
        passes: Over the training examples, for each query.
    """

    problem: str
    method: ValuationMethod
    queries: int = 0
    passes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step of a problem does.

    Args:
        problem: Which problem steps.
        period: Iterations between two steps.
        level: Longest chain of lowers below the problem.
        after: Pairs of a lower and the micro-batches it takes before this problem's first step (its warm-up).
        ahead: Micro-batches of a look-ahead; 0 where updates are not taken back.
        answered_by: Problems above, a step of any of which ends the look-ahead.
        instructions: In order.
    """

    problem: str
    period: int = 1
    level: int = 0
    after: tuple[tuple[str, int], ...] = ()
    ahead: int = 0
    answered_by: tuple[str, ...] = ()
    instructions: tuple[Instruction, ...] = ()

    @property
    def responses(self) -> tuple[Respond, ...]:
        return tuple(item for item in self.instructions if isinstance(item, Respond))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole program as the executor runs it: ``iterations`` times every step whose turn it is, in order.

    ``then`` is what is done once, after the last iteration: gradients are logged and scored, where the program values
    examples.
    """

    name: str
    iterations: int = 1
    device: str = "cpu"
    precision: str = "fp32"
    seed: int = 0
    strategy: str = "single"
    reason: str = ""
    """Why the strategy is this one, where the compiler has chosen it by the budget."""
    memory: int | None = None
    """Bytes that the program may take."""
    edges: int = 0
    compile: str = ""
    steps: tuple[Step, ...] = ()
    then: Step | None = None
    peak: Peak | None = None

    def step(self, problem: str) -> Step:
        return next(step for step in self.steps if step.problem == problem)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)
