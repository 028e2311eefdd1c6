"""From a user's model to what gives its per-example gradients."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from betty.backends.torch.influence.fallback import Fallback
from betty.backends.torch.influence.recording import Recorder
from betty.backends.torch.influence.task import Task
from betty.backends.torch.tree import sharded
from betty.ir.diagnostics import BettyError, listing
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


def sweep_of(
    model: nn.Module,
    task: Task,
    layers: Sequence[str | type[nn.Module]] | None,
    precision: str,
    *,
    tokens: bool,
    seed: int,
) -> Sweep:
    """Hooks on the layers of a model, and a fallback for parameters that they do not cover.

    Raises:
        BettyError: ``layers`` names nothing that there is, or nothing is trained.
    """
    recorder = Recorder(model, layers, tokens=tokens)
    fallback = Fallback(model, recorder.lone) if recorder.lone and not tokens else None
    if tokens:
        recorder.left_out.update(dict.fromkeys(recorder.lone, "no hook tells its tokens apart"))
    units = (*recorder.units, *(fallback.units if fallback else ()))
    if fallback and any(sharded(leaf) for leaf in model.parameters()):
        raise BettyError(
            f"{listing([unit.name for unit in fallback.units])}: no hook tells examples apart there, and parameters "
            "that processes share (FSDP) cannot be differentiated otherwise: leave them out by layers=[...]"
        )
    if not units:
        raise BettyError("the model has no trainable parameter that could be valued")
    return Sweep(model, task, recorder, fallback, units, precision, tokens, seed)
