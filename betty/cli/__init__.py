"""The command line: ``betty check``, ``betty compile``, ``betty run`` and ``betty schema``."""

from __future__ import annotations

from betty.cli.app import main

__all__ = ["main"]
