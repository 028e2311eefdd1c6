"""The report of a check, for people and machines, and the change of a spec that it recommends."""

from __future__ import annotations

from betty.checking.report import Report
from betty.checking.writing import Written, write_methods

__all__ = ["Report", "Written", "write_methods"]
