"""Records of a problem's last updates, from which they can be computed again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from betty.backends.torch.objective import Sample
from betty.backends.torch.swap import BufferValues
from betty.backends.torch.tape import Reading
from betty.backends.torch.tree import Tree, copy, detach
from betty.backends.torch.updates import Group

if TYPE_CHECKING:
    from betty.backends.torch.program import LiveProblem


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Copies of a problem's parameters, of the optimiser's state beside each, and of all buffers its loss can reach."""

    parameters: Tree
    states: tuple[dict[str, Any], ...]
    buffers: BufferValues


@dataclass(eq=False)
class Micro:
    """One micro-batch as an update has evaluated it, and all other problems as they stood.

    ``gains`` is what the responses of the problem's own lowers have added to its gradient; constant for all that
    looks back on the update. ``factor`` is what its loss was multiplied by in half precision.
    """

    sample: Sample
    readings: tuple[Reading, ...]
    gains: Tree = ()
    factor: Tensor | None = None


@dataclass(eq=False)
class Record:
    """Everything that it takes to compute one update again.

    Args:
        version: Updates before this one.
        start: Where the problem stood; kept for some updates alone.
        edited: Whether that is not where the update before has left it.
        origin: Where the parameters were copied from, if the problem began anew with this update.
        micros: Its micro-batches in order.
        groups: Hyperparameters of each parameter at the update, but for those that a problem tunes.
        tuners: The problems that tune hyperparameters, as they stood at the update.
    """

    version: int
    start: Snapshot | None = None
    edited: bool = False
    origin: Reading | None = None
    micros: list[Micro] = field(default_factory=list)
    groups: tuple[Group | None, ...] = ()
    tuners: tuple[Reading, ...] = ()


class History:
    """The last ``length`` updates: all records, and the problem's state at every ``sqrt(length)``-th of them.

    Wherever someone else than an update has moved parameters, optimiser state or buffers, the state is kept too. The
    oldest update may lie inside a block of updates; the records from that block's beginning on are then kept as well.

    Args:
        length: Updates that can be computed again.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.records: list[Record] = []
        self.open: Record | None = None
        self._left: tuple[tuple[Tensor, int], ...] = ()

    @property
    def stride(self) -> int:
        """Updates between two states kept."""
        return math.isqrt(self.length)  # a state takes less room than a graph

    def begin(self, problem: LiveProblem, origin: Reading | None) -> None:
        """Open the record of an update that is about to be made."""
        if origin is not None:
            self.clear()
        edited = bool(self.records) and not self.untouched(problem)
        known = self.records and not edited and self._since() < self.stride
        self.open = Record(problem.version, None if known else snapshot(problem, origin), edited, origin)

    def close(self, problem: LiveProblem, groups: Sequence[Group | None], tuners: Sequence[Reading]) -> None:
        """Take the open record in, after its update has been made; forget what no update kept depends on."""
        assert self.open is not None
        self.open.groups, self.open.tuners = tuple(groups), tuple(tuners)
        self.records.append(self.open)
        self.open, self._left = None, _edits(problem)
        oldest = len(self.records) - self.length
        starts = [index for index in self._starts() if index <= oldest]
        if starts:
            del self.records[: starts[-1]]

    def settle(self, problem: LiveProblem, *, untouched: bool) -> None:
        """Take the problem for where the last update has left it, or for moved since."""
        self._left = _edits(problem) if untouched else ()

    def clear(self) -> None:
        """Forget everything."""
        self.records, self.open, self._left = [], None, ()

    def blocks(self, steps: int) -> list[tuple[list[Record], int]]:
        """The blocks that the last ``steps`` updates lie in, oldest first: records, index of the first meant."""
        first = max(0, len(self.records) - min(steps, self.length))
        edges = [*self._starts(), len(self.records)]
        pairs = [(low, high) for low, high in itertools.pairwise(edges) if high > first]
        return [(self.records[low:high], max(0, first - low)) for low, high in pairs]

    def readings(self) -> Iterator[Reading]:
        """What the updates have read, oldest first."""
        for record in (*self.records, *([self.open] if self.open else [])):
            yield from (reading for micro in record.micros for reading in micro.readings)
            yield from record.tuners

    def _starts(self) -> list[int]:
        return [index for index, record in enumerate(self.records) if record.start is not None]

    def _since(self) -> int:
        """Updates since the last state kept."""
        return len(self.records) - self._starts()[-1]

    def untouched(self, problem: LiveProblem) -> bool:
        """Whether everything is as the last update has left it."""
        now = _edits(problem)
        pairs = zip(now, self._left, strict=False)
        return len(now) == len(self._left) and all(a[0] is b[0] and a[1] == b[1] for a, b in pairs)


def snapshot(problem: LiveProblem, origin: Reading | None = None) -> Snapshot:
    """Where a problem stands; at the start that it has just copied, that is the start itself."""
    assert problem.optimizer is not None
    states = tuple(
        {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in state.items()}
        for state in (problem.optimizer.state.get(parameter, {}) for parameter in problem.parameters)
    )
    parameters = copy(problem.parameters) if origin is None else detach(origin.tensors)
    return Snapshot(parameters, states, problem.objective.buffers.values())


def _edits(problem: LiveProblem) -> tuple[tuple[Tensor, int], ...]:
    """All tensors that an update starts from, and how often each has been written to."""
    assert problem.optimizer is not None
    states = (problem.optimizer.state.get(parameter, {}) for parameter in problem.parameters)
    kept = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    buffers = [buffer for held in problem.objective.buffers.held() for buffer in held.values() if buffer is not None]
    return tuple((tensor, tensor._version) for tensor in (*problem.parameters, *kept, *buffers))
