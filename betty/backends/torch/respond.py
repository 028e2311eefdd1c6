"""Responses: an adjoint of a lower problem becomes gains of everything that the lower's loss reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager

import torch

from betty.backends.torch.errors import RunError
from betty.backends.torch.methods import Aid, Answer, Lower, Occasion, Solution, estimator, inverse, product
from betty.backends.torch.objective import Sample
from betty.backends.torch.program import LiveProblem
from betty.backends.torch.tape import Adjoint, Reading, Segment, sweep
from betty.backends.torch.tree import Tree, scale
from betty.ir.methods import Method


def answer_by_solve(
    point: Lower, adjoint: Adjoint, method: Method, aid: Aid
) -> tuple[dict[str, Tree], Solution]:
    r"""Gain ``-(dg/dx)^T q`` for every problem ``x`` in ``point.reads``, with ``q ~ H^-1 adjoint``.

    The implicit function theorem at :math:`g(\theta, x) = \nabla_\theta L = 0`, linearised at the live parameters
    on the micro-batches of the lower's last update. Inexact as far as the lower is not stationary there.
    """
    if method.product is None:
        raise ValueError(f"{method.to_text()} is no implicit method")
    v = adjoint.total()
    linearization = product(method.product).linearize(point)
    with torch.no_grad():
        solution = inverse(method.solver).solve(linearization.hessian, v or (), aid)
        pulled = linearization.pull(solution.value)
    return {name: scale(-1.0, tree) for name, tree in pulled.items()}, solution


def answer_by_estimate(point: Lower, adjoint: Adjoint, method: Method, occasion: Occasion) -> Answer:
    """What every problem in ``point.reads`` gains, by an estimator that needs first derivatives alone."""
    return estimator(method.solver).answer(point, adjoint.total() or (), occasion)


def standing(lower: LiveProblem, samples: tuple[Sample, ...], reads: Mapping[str, Tree]) -> Lower:
    """Where the lower stands: the live parameters, and the micro-batches that its loss is evaluated on.

    Raises:
        RunError: The lower has not stepped yet, so that there is no micro-batch.
    """
    if not samples:
        raise RunError(f"{lower.name!r} has not stepped yet: its response is that of its last step")
    return Lower(lower.name, lower.objective, samples, lower.parameters, reads)


def answer_by_tape(lower: LiveProblem, adjoint: Adjoint, steps: int) -> Iterator[tuple[Reading, Tree]]:
    """Differentiate the last ``steps`` updates of ``lower`` in reverse; what each thing read gains.

    Exact as the derivative of what those updates have computed; what lies before them counts as constant.

    Raises:
        RunError: The lower has made no update yet.
    """
    segments = list(lower.tape)[-steps:]
    if not segments:
        raise RunError(f"{lower.name!r} has made no update yet: there is no trajectory to differentiate")

    def holding(segment: Segment) -> AbstractContextManager[None]:
        read = {reading.problem: reading.tensors for reading in segment.readings}
        return lower.objective.holding({lower.name: segment.before, **read}, buffers=True)

    return sweep(segments, adjoint, holding)
