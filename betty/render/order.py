"""The order of items within each row: barycentre sweeps that leave few crossings."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable

from betty.render.items import Item, Scene

SWEEPS = 12
PATIENCE = 4


def order(scene: Scene) -> None:
    """Reorder every row of ``scene`` in place, the best order of up to ``SWEEPS`` sweeps up and down.

    A sweep sorts each row by the mean position of its items' neighbours in the row before it (Sugiyama, Tagawa and
    Toda 1981). Sorting is stable, so the declared order decides ties and equal graphs are drawn equally.
    """
    best, fewest, stale = [list(row) for row in scene.rows], crossings(scene.rows), 0
    for sweep in range(SWEEPS):
        if fewest == 0 or stale == PATIENCE:
            break
        _sweep(scene.rows, downward=sweep % 2 == 0)
        found = crossings(scene.rows)
        stale = 0 if found < fewest else stale + 1
        if found < fewest:
            best, fewest = [list(row) for row in scene.rows], found
    scene.rows = best


def _sweep(rows: list[list[Item]], downward: bool) -> None:
    for row in rows if downward else reversed(rows):
        # Rows already visited lie on the side that is looked at; each knows its position from its own visit.
        keys = {item: _barycentre(item.above if downward else item.below, item.x) for item in row}
        row.sort(key=keys.__getitem__)
        for position, item in enumerate(row):
            item.x = float(position)


def _barycentre(neighbours: list[Item], fallback: float) -> float:
    return sum(item.x for item in neighbours) / len(neighbours) if neighbours else fallback


def crossings(rows: list[list[Item]]) -> int:
    """How many pairs of lines cross, over all gaps between rows. Sets ``x`` of every item to its position."""
    for row in rows:
        for position, item in enumerate(row):
            item.x = float(position)
    return sum(_inversions(other.x for item in row for other in sorted(item.below, key=_x)) for row in rows)


def _x(item: Item) -> float:
    return item.x


def _inversions(values: Iterable[float]) -> int:
    """Pairs in the wrong order; equal values are in order."""
    seen: list[float] = []
    total = 0
    for value in values:
        total += len(seen) - bisect_right(seen, value)
        insort(seen, value)
    return total
