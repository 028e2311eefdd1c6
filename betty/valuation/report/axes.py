"""Scales of charts: from numbers to places, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """From numbers to places along an axis.

    Args:
        low: The number at ``start``.
        high: The number at ``end``.
        start: Place of ``low``.
        end: Place of ``high``.
        log: Whether equal factors are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            value, low, high = (math.log10(max(one, self.low)) for one in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        part = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + min(max(part, 0.0), 1.0) * (self.end - self.start), 2)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within the scale."""
        return _powers(self.low, self.high, most) if self.log else _steps(self.low, self.high, most)


def linear(values: Sequence[float], start: float, end: float, *, zero: bool = False) -> Scale:
    """A scale over values, with a little room; through zero where asked."""
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low or abs(high) or 1.0) * 0.06
    return Scale(low - (0 if zero and low == 0 else room), high + room, start, end)


def logarithmic(values: Sequence[float], start: float, end: float, decades: int = 8) -> Scale:
    """A logarithmic scale over the positive values, at most some ``decades`` long; smaller ones are at its end."""
    positive = [value for value in values if value > 0] or [1.0]
    high = max(positive)
    low = max(min(positive), high / 10**decades)
    return Scale(low / 1.3, high * 1.3, start, end, log=True)


def stretched(values: Sequence[float]) -> bool:
    """Whether values are so far apart that a logarithmic scale shows them better."""
    ordered = sorted(value for value in values if value > 0)
    if len(ordered) < max(2, 0.9 * len(values)):
        return False
    return ordered[-1] > 20 * ordered[len(ordered) // 2]


def label(value: float) -> str:
    """A tick's number, short."""
    if value == 0:
        return "0"
    size = abs(value)
    if 1e-3 <= size < 1e5:
        return f"{value:,.4g}".replace("-", "−")
    digits, _, power = f"{value:.3g}".partition("e")
    return f"{digits}e{int(power)}".replace("-", "−") if power else digits.replace("-", "−")


def _steps(low: float, high: float, most: int) -> list[float]:
    if not high > low:
        return [low]
    rough = (high - low) / most
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _powers(low: float, high: float, most: int) -> list[float]:
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    every = max(1, math.ceil((last - first + 1) / most))
    found = [10.0**place for place in range(first, last + 1, every)]
    return found if len(found) > 1 else [low * 1.3, high / 1.3]
