"""From a user's model to what gives its per-example gradients."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from betty.backends.torch.influence.fallback import Fallback
from betty.backends.torch.influence.recording import Recorder
from betty.backends.torch.influence.task import Task
from betty.valuation.passes import Sweep


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself: without ``DistributedDataParallel`` and ``torch.compile``, whose hooks see whole batches."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner
