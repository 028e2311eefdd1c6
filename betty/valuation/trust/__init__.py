"""How far values can be trusted: beside exact influence, and beside training again."""

from __future__ import annotations

from betty.valuation.trust.brittleness import Curve, brittleness
from betty.valuation.trust.datamodeling import Datamodeling, datamodeling
from betty.valuation.trust.exact import Agreement, compare
from betty.valuation.trust.retraining import Outcome, Train, Trainer, leave_one_out, random_subsets, retrained
from betty.valuation.trust.trust import Trust

__all__ = [
    "Agreement",
    "Curve",
    "Datamodeling",
    "Outcome",
    "Train",
    "Trainer",
    "Trust",
    "brittleness",
    "compare",
    "datamodeling",
    "leave_one_out",
    "random_subsets",
    "retrained",
]
