"""A valuation as a page: queries with their examples, values, outliers, and how far to trust them."""

from __future__ import annotations

from betty.valuation.report.data import ReportData
from betty.valuation.report.page import page, write_report

__all__ = ["ReportData", "page", "write_report"]
