"""Mistakes that show only when a program runs."""

from __future__ import annotations

from betty.ir.diagnostics import BettyError


class RunError(BettyError):
    """The program cannot go on: its data ran dry, a loss is no scalar, a device is missing."""

    stage = "run"
