"""A problem whose response is found at its solution."""

from __future__ import annotations

from betty.problems.problem import Problem


class ImplicitProblem(Problem):
    """A problem that answers to the problems above it by the method that its ``Config`` names.

    ``type="darts"`` and the other implicit methods differentiate the stationarity of the problem's last update;
    ``unrolled`` and ``forward_mode`` are allowed as well and differentiate the updates themselves.
    """
