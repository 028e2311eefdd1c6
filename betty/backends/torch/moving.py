"""How a gradient moves the parameters outside a graph: clipping, hooks, optimiser, scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from betty.backends.torch.frame import Frame
from betty.backends.torch.program import LiveProblem
from betty.backends.torch.tree import Tree, copy, detach
from betty.backends.torch.updates import clip


def edited(problem: LiveProblem, gradient: Tree) -> Tree:
    """The gradient as the program has made of it; each part has room of its own, to be written to in place."""
    assert problem.hooks is not None
    with showing(problem, copy(gradient)):
        problem.hooks.gradient(problem.parameters)
        return tuple(
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
            for parameter in problem.parameters
        )


def descend(problem: LiveProblem, gradient: Tree) -> None:
    """Let the optimiser, or what the program has in its place, apply a gradient."""
    clipped = detach(clip(gradient, problem.gradient_clipping))
    replaced = problem.hooks is not None and problem.hooks.replaces
    # What writes to a gradient in place needs it apart from others: autograd gives views, and one tensor twice.
    with showing(problem, copy(clipped) if replaced else clipped):
        if replaced:
            assert problem.hooks is not None
            problem.hooks.update()
        else:
            assert problem.optimizer is not None
            problem.optimizer.step()
    if problem.shares is not None:
        problem.shares.spread(problem.parameters)


@contextmanager
def showing(problem: LiveProblem, gradient: Tree) -> Iterator[None]:
    """Let the parameters hold a gradient in ``.grad``; they hold none afterwards."""
    left_out = problem.idle if problem.shares is None else problem.idle | problem.shares.foreign
    try:
        for index, (parameter, part) in enumerate(zip(problem.parameters, gradient, strict=True)):
            parameter.grad = None if index in left_out else part
        yield
    finally:
        for parameter in problem.parameters:
            parameter.grad = None


def advance(problem: LiveProblem, frame: Frame) -> None:
    """Step the scheduler, after an update that is not to be taken back."""
    scheduler = problem.scheduler
    if scheduler is None or problem.ahead is not None:
        return
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        assert frame.evaluation is not None
        scheduler.step(float(frame.evaluation.loss.detach()))
    else:
        # The scheduler warns unless it has seen the optimiser step; a differentiable update has stepped for it.
        problem.optimizer._opt_called = True  # type: ignore[union-attr]
        scheduler.step()
