"""What can go wrong between a graph and its drawing."""

from __future__ import annotations

from betty.ir.diagnostics import BettyError


class RenderError(BettyError):
    """A drawing cannot be made or written: its ending, a missing program, or the folder."""

    stage = "render"
