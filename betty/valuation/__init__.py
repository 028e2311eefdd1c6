"""What each training example is worth: influence functions from gradient products to exact solves."""

from __future__ import annotations

from betty.backends.torch.influence.task import Task
from betty.valuation.ensemble import Ensemble
from betty.valuation.results import Top
from betty.valuation.valuation import Valuation

__all__ = ["Ensemble", "Task", "Top", "Valuation"]
