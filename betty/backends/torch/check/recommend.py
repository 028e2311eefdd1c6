"""Which method to take: the cheapest that is exact enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

from betty.backends.torch.check.records import Recommendation, Row
from betty.ir.quantities import three_digits

TOLERANCE = 0.05
"""Relative error that is exact enough."""
DIRECTION = 0.02
"""How far below the best a cosine may be where no method is within the tolerance."""
SAME = 1e-6
"""Relative errors below this are alike: rounding, or the reference compared with itself."""
ALIKE = 1.25
"""Costs that differ by less than this factor are alike: the clock is no finer, and a change must be worth it."""


def recommend(rows: Sequence[Row], tolerance: float = TOLERANCE) -> Recommendation | None:
    """The cheapest method within ``tolerance`` of the reference at every point.

    Where there is none, the cheapest of those that point in the best direction: whose lowest cosine is within 0.02
    of the best one. Among methods of like cost the program's own is kept, then the most exact one is taken; errors
    below 1e-6 count as equal, and the cheapest of those wins. ``None`` where no method gave a finite hypergradient.
    """
    sound = [row for row in rows if row.ran and math.isfinite(row.error)]
    if not sound:
        return None
    within = [row for row in sound if row.error <= tolerance]
    pool, why = (within, "") if within else _by_direction(sound)
    least = min(row.steps for row in pool)
    alike = [row for row in pool if row.steps <= ALIKE * least]
    taken = min(alike, key=lambda row: (not row.chosen, max(row.error, SAME), row.steps, row.bytes or 0))
    reason = why or (f"relative error {taken.error:.1e} at most" if taken.error > 0 else "the reference itself")
    return Recommendation(
        method=taken.method,
        name=taken.name,
        reason=f"{reason}; {_cost(taken, pool)}",
        change=not taken.chosen,
    )


def _by_direction(sound: Sequence[Row]) -> tuple[list[Row], str]:
    pointed = [row for row in sound if not math.isnan(row.cosine)]
    if not pointed:
        return list(sound), "no method comes near the reference, and none has a direction"
    best = max(row.cosine for row in pointed)
    pool = [row for row in pointed if row.cosine >= best - DIRECTION]
    return pool, f"no method is within the tolerance; the best direction has cosine {best:.3f}"


def _cost(taken: Row, pool: Sequence[Row]) -> str:
    own = f"{three_digits(taken.steps)} steps of the lower"
    if len(pool) == 1:
        return f"{own}; the only one"
    most = min(pool, key=lambda row: row.error)
    cheapest = taken.steps == min(row.steps for row in pool)
    others = f"the cheapest of {len(pool)}" if cheapest else f"about as cheap as the cheapest of {len(pool)}"
    if most is taken:
        return f"{own}, {others} and the most exact"
    return f"{own}, {others}; {most.name}, the most exact, takes {three_digits(most.steps)}"
