"""What a check has found, as records: measurements, rows, flags, a recommendation for every edge."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from betty.ir.methods import Method


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One method at one point of training.

    Args:
        iteration: When.
        cosine: Of the angle between hypergradient and reference; not a number where either is zero or non-finite.
        error: Norm of the difference over the norm of the reference; infinite where the hypergradient is non-finite.
        steps: Time of the response in units of one plain training step of the lower.
        seconds: The same in seconds.
        bytes: Peak memory of the response, what the lower keeps for it included; ``None`` where it was not measured,
            which it is once, at the first point, if the method is not too slow.
    """

    iteration: int
    cosine: float
    error: float
    steps: float
    seconds: float
    bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method of one edge: the worst of its measurements where it is about errors, the median where about cost.

    Args:
        method: The method, every option written out.
        name: ``inverse + product``, or the name alone of a method without a product.
        chosen: Whether the program uses it.
        measurements: One a point; empty where it cannot run.
        reason: Why it cannot run; empty where it does.
    """

    method: Method
    name: str
    chosen: bool = False
    measurements: tuple[Measurement, ...] = ()
    reason: str = ""

    @property
    def ran(self) -> bool:
        return bool(self.measurements) and not self.reason

    @property
    def cosine(self) -> float:
        """The lowest over the points."""
        found = [one.cosine for one in self.measurements]
        return math.nan if not found or any(math.isnan(value) for value in found) else min(found)

    @property
    def error(self) -> float:
        """The largest over the points."""
        return max((one.error for one in self.measurements), default=math.nan)

    @property
    def steps(self) -> float:
        return statistics.median(one.steps for one in self.measurements) if self.measurements else math.nan

    @property
    def seconds(self) -> float:
        return statistics.median(one.seconds for one in self.measurements) if self.measurements else math.nan

    @property
    def bytes(self) -> int | None:
        """The largest that was measured."""
        return max((one.bytes for one in self.measurements if one.bytes is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Something that makes methods wrong on this edge.

    Args:
        code: ``detached``, ``kink``, ``negative_curvature``, ``divergent_neumann`` or ``unconverged_lower``.
        upper: The edge's upper.
        lower: The edge's lower.
        iteration: The point where it is worst.
        value: The number that the message gives; see the table of flags in the documentation.
        message: What was found.
        advice: What to do about it.
    """

    code: str
    upper: str
    lower: str
    iteration: int
    value: float
    message: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The method to take for an edge, and why."""

    method: Method
    name: str
    reason: str
    change: bool
    """Whether it is another one than the program uses."""


@dataclass(frozen=True, kw_only=True)
class EdgeCheck:
    """All that was found about one edge.

    Args:
        upper: The edge's upper.
        lower: The edge's lower.
        target: The problem whose hypergradient was compared: the upper, or a problem above it where the upper's own
            hypergradient does not pass over this edge.
        reference: What the comparison is with.
        points: Iterations at which it was made.
        rows: Every method of the tables; those that cannot run with the reason.
        flags: What makes methods wrong here.
        recommendation: ``None`` where no method ran.
        notes: What else a reader should know.
    """

    upper: str
    lower: str
    target: str
    reference: str
    points: tuple[int, ...]
    rows: tuple[Row, ...]
    flags: tuple[Flag, ...] = ()
    recommendation: Recommendation | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.upper} -> {self.lower}"


@dataclass(frozen=True, kw_only=True)
class Check:
    """A whole check; edges without a response are named in ``silent``."""

    program: str
    iterations: int
    seed: int
    tolerance: float
    edges: tuple[EdgeCheck, ...]
    silent: tuple[str, ...] = ()
    seconds: float = 0.0
