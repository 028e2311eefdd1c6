"""How exact the hypergradients of a live program are, and what they cost."""

from __future__ import annotations

from betty.backends.torch.check.records import Check, EdgeCheck, Flag, Measurement, Recommendation, Row
from betty.backends.torch.check.run import Request, Truth, check_program

__all__ = [
    "Check",
    "EdgeCheck",
    "Flag",
    "Measurement",
    "Recommendation",
    "Request",
    "Row",
    "Truth",
    "check_program",
]
