"""Memory of a loss's derivatives, measured on fake tensors: what is alive at the peak, and what a graph keeps alive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from betty.backends.torch.duals import dual_level, duals, tangent
from betty.backends.torch.objective import Objective
from betty.backends.torch.profiler import StorageWatch
from betty.backends.torch.tree import detach
from betty.backends.torch.updates import rule_for

SMALL = 1000
"""Entries of the parameter on which an optimiser's update is tried."""


def first_order(objective: Objective, batch: Any, by: Sequence[Tensor]) -> int:
    """Bytes at the peak of a loss and its backward pass, the gradient included."""
    with StorageWatch() as watch:
        loss = objective.held(batch).loss
        if loss.requires_grad:
            torch.autograd.grad(loss, by, allow_unused=True)
    return int(watch.peak)


def second_order(objective: Objective, batch: Any, own: Sequence[Tensor], by: Sequence[Tensor]) -> tuple[int, int]:
    """Bytes that the gradient keeps alive with its graph, and what a product through it takes beside at its peak."""
    with objective.differentiable(), StorageWatch() as watch:
        loss = objective.held(batch).loss
        gradient: Sequence[Tensor | None] = torch.autograd.grad(loss, own, allow_unused=True, create_graph=True)
        parts = [part for part in gradient if part is not None and part.requires_grad]
        held = watch.live
        if parts:
            watch.peak = held
            torch.autograd.grad(parts, by, [part.detach() for part in parts], allow_unused=True, retain_graph=True)
    return held, watch.peak - held


def forward_mode(
    objective: Objective, batch: Any, own: Sequence[Tensor], others: Sequence[Tensor], held: Any
) -> tuple[int, int]:
    """Bytes at the peak of a gradient with tangents, and of the gradient by others of the loss's tangent.

    Args:
        objective: The loss.
        batch: Its micro-batch.
        own: The parameters that have tangents.
        others: What else the loss reads, that is trained.
        held: The places of ``own``.
    """
    with dual_level(), objective.differentiable():
        ones = [torch.ones_like(tensor) for tensor in own]
        with StorageWatch() as watch:
            moving = tuple(leaf.requires_grad_() for leaf in duals(detach(tuple(own)), ones))
            with held.holding(moving):
                torch.autograd.grad(objective.held(batch).loss, moving, allow_unused=True)
        product = watch.peak
    mixed = product
    if others:
        with dual_level(), objective.differentiable():
            with StorageWatch() as watch, held.holding(tuple(duals(detach(tuple(own)), ones))):
                change = tangent(objective.held(batch).loss)
                if change.requires_grad:
                    torch.autograd.grad(change, others, allow_unused=True)
            mixed = watch.peak
    return product, mixed


def update_copies(optimizer: torch.optim.Optimizer | None) -> float:
    """What the graph of one update keeps alive, in copies of the parameters; 0 where there is no such graph."""
    rule = rule_for(optimizer) if optimizer is not None else None
    if optimizer is None or rule is None:
        return 0.0
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    side = round(SMALL**0.5)
    shape = (side, side)  # a matrix, as some rules take nothing else
    try:
        parameter, gradient = torch.zeros(shape), torch.ones(shape)
        state = rule(parameter, gradient, {}, group)[1]
        state = {key: value.detach() for key, value in state.items()}
        with StorageWatch() as watch, torch.enable_grad():
            leaf = parameter.requires_grad_()
            found = rule(leaf, gradient.requires_grad_() * 1.0, state, group)
            held = watch.live
        del found
    except Exception:  # hyperparameters may be anything; then nothing is known
        return 0.0
    return float(held) / (parameter.numel() * parameter.element_size())
