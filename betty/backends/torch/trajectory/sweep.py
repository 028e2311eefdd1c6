"""The reverse sweep through kept updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from betty.backends.torch.tape import Adjoint, Reading, Segment
from betty.backends.torch.tree import Tree

Key = tuple[int, str]
"""A parameter by position, and the name of its optimiser state (empty for the parameter itself)."""


def _as_it_is(segment: Segment) -> AbstractContextManager[None]:
    del segment
    return nullcontext()


def sweep(
    segments: Iterable[Segment],
    adjoint: Adjoint,
    holding: Callable[[Segment], AbstractContextManager[None]] = _as_it_is,
    *,
    retain: bool = True,
    together: Callable[[Tree], Tree] = tuple,
) -> Iterator[tuple[Reading, Tree]]:
    """Use up ``adjoint``: pass it back through ``segments`` (newest first); what each reading gains, newest first.

    Parameters and optimiser state at the start of the oldest segment count as constant, unless the parameters were
    copied from another problem's: that gains what arrives there. Linked segments are swept at once. ``holding`` lets
    the modules hold what a segment was computed with, for code that activation checkpointing evaluates again; such
    segments are not linked. With ``retain`` the graphs stay as they are, for another sweep. ``together`` is the mean
    over all processes: a gradient is one of all of them, so that what has passed through it is each process's part.
    """
    cotangent: dict[Key, Tensor] = {}
    for run in _runs(segments):
        cotangent = dict(zip(cotangent, together(tuple(cotangent.values())), strict=True))
        seeds = _seeds(run, cotangent, adjoint)
        if not seeds:
            continue
        inputs = _inputs(run[-1])
        readings = [leaf for segment in run for reading in segment.readings for leaf in reading.tensors]
        with holding(run[0]):
            found = torch.autograd.grad(
                [output for output, _ in seeds],
                [*inputs.values(), *readings],
                [seed for _, seed in seeds],
                retain_graph=retain,
                allow_unused=True,
                materialize_grads=True,
            )
        cotangent = dict(zip(inputs, found, strict=False))
        parts = iter(found[len(inputs) :])
        for segment in run:
            for reading in segment.readings:
                yield reading, tuple(next(parts) for _ in reading.tensors)
        if run[-1].origin is not None:
            yield run[-1].origin, tuple(cotangent[index, ""] for index in range(len(run[-1].before)))
            return
        # Where segments are computed again, the next ones need the room that these take.
        del run, segment, seeds, inputs, found, parts


def _runs(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Segments that are linked with one another, newest first."""
    run: list[Segment] = []
    for segment in segments:
        run.append(segment)
        if not segment.linked:
            yield run
            run = []
    if run:
        yield run


def _seeds(run: Sequence[Segment], cotangent: dict[Key, Tensor], adjoint: Adjoint) -> list[tuple[Tensor, Tensor]]:
    """What the sweep starts from: what has arrived at the newest segment, and the adjoints of every version."""
    arrived = {key: (output, cotangent[key]) for key, output in _outputs(run[0]).items() if key in cotangent}
    seeds = list(arrived.values())
    for segment in run:
        tree = adjoint.by_version.pop(segment.version + 1, ())  # its room is needed further on
        seeds += [(after, part) for after, part in zip(segment.after, tree, strict=False) if after.requires_grad]
    return seeds


def _outputs(segment: Segment) -> dict[Key, Tensor]:
    """What an update computes from something that gradients can be taken by."""
    found: dict[Key, Tensor] = {(index, ""): tensor for index, tensor in enumerate(segment.after)}
    for index, state in enumerate(segment.state_after):
        found.update(((index, name), value) for name, value in state.items())
    return {key: value for key, value in found.items() if value.requires_grad}


def _inputs(segment: Segment) -> dict[Key, Tensor]:
    """What an update starts from."""
    found: dict[Key, Tensor] = {(index, ""): tensor for index, tensor in enumerate(segment.before)}
    for index, state in enumerate(segment.state_before):
        found.update(((index, name), value) for name, value in state.items() if value.requires_grad)
    return found
