"""The numbers of a check as a table of a page."""

from __future__ import annotations

import math
from html import escape

from betty.valuation.trust.trust import Trust

NAMES = {
    "spearman": "rank correlation (Spearman)",
    "pearson": "correlation (Pearson)",
    "cosine": "cosine",
    "sign": "same sign",
    "scale": "size, as a multiple",
}


def comparisons(trust: Trust) -> str:
    """What was compared, with the numbers that were found; nothing where nothing was."""
    rows: list[tuple[str, str]] = []
    if trust.exact is not None:
        record = trust.exact.record()
        rows += [(f"with {trust.reference}", "")]
        rows += [(said, _number(float(record[key]))) for key, said in NAMES.items()]
    if trust.datamodeling is not None:
        found = trust.datamodeling
        rows += [(f"with {found.subsets} trainings on a half", "")]
        rows += [("linear datamodeling score", _number(found.score))]
        rows += [(f"{found.level:.0%} interval", f"{_number(found.low)} to {_number(found.high)}")]
        rows += [("the most possible", _number(found.ceiling))] if found.ceiling is not None else []
    if not rows:
        return ""
    return f'<table class="compared">{"".join(_row(*row) for row in rows)}</table>'


def _row(said: str, number: str) -> str:
    if not number:
        return f'<tr class="head"><th colspan="2">{escape(said)}</th></tr>'
    return f"<tr><th>{escape(said)}</th><td>{escape(number)}</td></tr>"


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"
