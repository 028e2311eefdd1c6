"""Coordinates of the built-in layout, in pixels: where each item stands and how high each row is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from betty.render.items import Item, Scene

SWEEPS = 16
BETWEEN = 26.0
"""Free space between neighbours of a row where a problem is involved; half of it between lines."""
GAP = 34.0
MOST_GAP = 120.0
STEEPNESS = 0.25
"""Pixels by which a gap between rows grows with each pixel that a line moves sideways in it."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """The vertical extent of one row."""

    top: float
    bottom: float

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


def place(scene: Scene) -> list[Band]:
    """Set ``x`` of every item so that lines are short and straight; the order within rows stays as it is.

    Sweeps move each item to the middle of its neighbours, which draws a long strand as a flight of small stairs.
    Last of all, each strand takes the ``x`` of its label wherever there is room, and has its bends at its ends.

    Returns:
        The band of every row, the first beginning at 0.
    """
    for row in scene.rows:
        _settle(row, [0.0] * len(row))
    for sweep in range(SWEEPS):
        downward = sweep % 2 == 0
        for row in scene.rows if downward else reversed(scene.rows):
            _settle(row, [_wish(item, downward) for item in row])
    for row in scene.rows:
        _settle(row, [_wish(item, None) for item in row])
    for row in [*scene.rows, *reversed(scene.rows)]:
        _settle(row, [item.x if item.towards_label is None else item.towards_label.x for item in row])
    return _bands(scene)


def _wish(item: Item, downward: bool | None) -> float:
    """The mean ``x`` of the neighbours on the side that a sweep comes from, or on both."""
    sides = item.above + item.below if downward is None else item.above if downward else item.below
    if not sides:
        return item.x
    return sum(other.x for other in sides) / len(sides)


def _settle(row: list[Item], wishes: list[float]) -> None:
    """Move the items of ``row`` as near to ``wishes`` as their widths allow, in the sense of least squares.

    With the distance that neighbours must keep subtracted, this is the regression of a non-decreasing sequence,
    which pooling adjacent violators solves exactly in one pass.
    """
    offsets = _offsets(row)
    pools: list[tuple[float, float, int]] = []  # weighted mean, weight, members
    for item, wish, offset in zip(row, wishes, offsets, strict=True):
        pool = (wish - offset, _weight(item), 1)
        while pools and pools[-1][0] > pool[0]:
            pool = _joined(pools.pop(), pool)
        pools.append(pool)
    means = (mean for mean, _, members in pools for _ in range(members))
    for item, mean, offset in zip(row, means, offsets, strict=True):
        item.x = mean + offset


def _offsets(row: list[Item]) -> list[float]:
    """The ``x`` that each item would have if all stood as close together as they may."""
    found = [0.0] if row else []
    for left, right in pairwise(row):
        free = BETWEEN if left.problem or right.problem else BETWEEN / 2
        found.append(found[-1] + left.right + free + right.left)
    return found


def _weight(item: Item) -> float:
    """Bends of long strands are moved last: they are what makes a line crooked."""
    return 1.0 if item.problem else 4.0


def _joined(left: tuple[float, float, int], right: tuple[float, float, int]) -> tuple[float, float, int]:
    weight = left[1] + right[1]
    return (left[0] * left[1] + right[0] * right[1]) / weight, weight, left[2] + right[2]


def _bands(scene: Scene) -> list[Band]:
    bands: list[Band] = []
    top = 0.0
    for row in scene.rows:
        height = max((item.height for item in row), default=0.0)
        bands.append(Band(top=top, bottom=top + height))
        shift = max((abs(item.x - other.x) for item in row for other in item.below), default=0.0)
        top += height + min(GAP + STEEPNESS * shift, MOST_GAP)
    return bands
