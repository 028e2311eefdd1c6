"""A problem whose response is found through its own updates."""

from __future__ import annotations

from betty.ir.methods import Method, preset
from betty.problems.problem import Problem


class IterativeProblem(Problem):
    """A problem that answers by unrolled differentiation of all its updates since the upper's last step.

    What ``Config.type`` names is taken where it differentiates updates too (``unrolled``, ``forward_mode``, a mapping
    with ``steps``, ``truncate`` or ``remat``); any other type gives way to ``unrolled``, as in the first Betty.
    """

    def to_method(self) -> Method | None:
        chosen = self.config.to_method()
        return chosen if chosen is not None and chosen.trajectory else preset("unrolled")
