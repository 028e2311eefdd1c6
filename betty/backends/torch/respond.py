"""Responses: an adjoint of a lower problem becomes gains of everything that the lower's loss reads."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from betty.backends.torch.adaptation import adapt, decay_of, diagonal
from betty.backends.torch.errors import RunError
from betty.backends.torch.methods import Aid, Answer, Lower, Occasion, Solution, estimator, inverse, product
from betty.backends.torch.methods.base import same
from betty.backends.torch.methods.finite_difference import Difference
from betty.backends.torch.methods.widened import widened
from betty.backends.torch.objective import Sample
from betty.backends.torch.program import LiveProblem
from betty.backends.torch.scaling import factor_of
from betty.backends.torch.tape import Adjoint, Reading, Segment
from betty.backends.torch.trajectory.again import segments_again
from betty.backends.torch.trajectory.sweep import sweep
from betty.backends.torch.tree import Tree, norm, scale, wide
from betty.ir.methods import Method
from betty.ir.plan import Respond


def answer_by_solve(point: Lower, adjoint: Adjoint, method: Method, aid: Aid) -> tuple[dict[str, Tree], Solution]:
    r"""Gain ``-(dg/dx)^T q`` for every problem ``x`` in ``point.reads``, with ``q ~ H^-1 adjoint``.

    The implicit function theorem at :math:`g(\theta, x) = \nabla_\theta L = 0`, linearised at the live parameters
    on the micro-batches of the lower's last update. Inexact as far as the lower is not stationary there.
    """
    if method.product is None:
        raise ValueError(f"{method.to_text()} is no implicit method")
    v = wide(point.through(adjoint.total() or ()))
    linearization = widened(product(method.product).linearize, point)

    def hessian(x: Tree) -> Tree:
        return point.together(linearization.hessian(x))

    with torch.no_grad():
        solution = inverse(method.solver).solve(partial(_within, point, hessian), v, aid)
        pulled = linearization.pull(solution.value)
    return {name: scale(-1.0, tree) for name, tree in pulled.items()}, solution


def multitask(method: Method) -> bool:
    """Whether the lower is to be left where the last perturbation has had it."""
    return method.product is not None and bool(dict(method.product.options).get("multitask"))


def moved(point: Lower, method: Method, solved: Tree) -> Tree:
    """The lower's parameters as :func:`multitask` leaves them, for the solution of its adjoint."""
    assert method.product is not None
    linearization = product(method.product).linearize(point)
    assert isinstance(linearization, Difference)
    return linearization.moved(solved)


def _within(point: Lower, hessian: Callable[[Tree], Tree], v: Tree) -> Tree:
    """``H v`` within the parameters that the response goes through; others keep their part of ``v``."""
    if not point.answers:
        return hessian(v)
    moved = hessian(point.through(v))
    return tuple(one if taken else kept for one, kept, taken in zip(moved, v, point.answers, strict=True))


def aid_of(lower: LiveProblem, start: Tree | None, seed: int) -> Aid:
    """What may help a solve: the last solution, and what the lower's optimiser has made of its last gradient.

    Before the lower's first update, and where nothing is remembered, its optimiser counts as gradient descent.
    """
    last, optimizer = lower.last, lower.optimizer
    if last is None or optimizer is None:
        return Aid(start=start, seed=seed)
    # Each process knows how the optimiser treats the parameters that it updates.
    completed = lower.shares.completed if lower.shares is not None else same
    return Aid(
        start=start,
        adapt=lambda v: completed(adapt(last, optimizer, lower.parameters, v)),
        diagonal=lambda: completed(diagonal(last, optimizer, lower.parameters)),
        seed=seed,
    )


def answer_by_estimate(point: Lower, adjoint: Adjoint, method: Method, occasion: Occasion) -> Answer:
    """What every problem in ``point.reads`` gains, by an estimator that needs first derivatives alone."""
    return estimator(method.solver).answer(point, point.through(adjoint.total() or ()), occasion)


def standing(lower: LiveProblem, samples: tuple[Sample, ...], reads: Mapping[str, Tree]) -> Lower:
    """Where the lower stands: the live parameters, and the micro-batches that its loss is evaluated on.

    Raises:
        RunError: The lower has not stepped yet, so that there is no micro-batch.
    """
    if not samples:
        raise RunError(f"{lower.name!r} has not stepped yet: its response is that of its last step")
    decay = decay_of(lower.optimizer, lower.parameters) if lower.optimizer is not None else ()
    taken = lower.answers
    answers = () if taken is None else tuple(name in taken for name in lower.parameter_names)
    return Lower(lower.name, lower.objective, samples, lower.parameters, reads, decay, answers, lower.together)


def answer_by_trajectory(
    lower: LiveProblem, adjoint: Adjoint, response: Respond, target: str
) -> Iterator[tuple[str, int | None, Tree]]:
    """What every problem read gains from the lower's own updates, and at which version; ``None`` is the present one.

    Raises:
        RunError: The lower has made no update yet.
    """
    method, into = response.method, dict(response.into)
    if not method.unrolled:
        for name, tree in answer_by_tangents(lower, adjoint, target).items():
            if name in into:
                yield name, None, tree
        return
    updates = answer_again if method.solver["remat"] else answer_by_tape
    level = _level(lower, adjoint)
    for reading, tree in updates(lower, adjoint, method.steps or 1, into):
        if reading.problem in into:
            yield reading.problem, reading.version, tree if level is None else scale(1 / level, tree)


def _level(lower: LiveProblem, adjoint: Adjoint) -> Tensor | None:
    """Multiply an adjoint that is to pass through graphs in half precision, so that it does not vanish there.

    Each of these graphs ends with the division by the loss's scale, and begins with the multiplication.

    Returns:
        By what; ``None`` where there is no scale.
    """
    factor = factor_of(lower.scaler, lower.parameters[0])
    if factor is None:
        return None
    length = norm(adjoint.total() or ())
    level = factor / length.clamp_min(torch.finfo(length.dtype).tiny ** 0.5)
    for version, tree in adjoint.by_version.items():
        adjoint.by_version[version] = scale(level, tree)
    return level


def answer_by_tape(
    lower: LiveProblem, adjoint: Adjoint, steps: int, into: Container[str] = ()
) -> Iterator[tuple[Reading, Tree]]:
    """Differentiate the last ``steps`` updates of ``lower`` in reverse; what each thing read gains.

    Exact as the derivative of what those updates have computed; what lies before them counts as constant.
    """
    del into  # the graphs have what they have
    segments = list(lower.tape)[-steps:]
    if not segments:
        raise _no_update(lower)
    return sweep(reversed(segments), adjoint, partial(_holding, lower), together=lower.together)


def answer_again(
    lower: LiveProblem, adjoint: Adjoint, steps: int, into: Container[str]
) -> Iterator[tuple[Reading, Tree]]:
    """The same from records: each block of updates is computed again, swept and forgotten."""
    if not lower.history.records:
        raise _no_update(lower)
    segments = segments_again(lower, lower.history, steps, into)
    return sweep(segments, adjoint, partial(_holding, lower), retain=False, together=lower.together)


def answer_by_tangents(lower: LiveProblem, adjoint: Adjoint, target: str) -> dict[str, Tree]:
    """The same from derivatives that were carried along for ``target``."""
    if not lower.version:
        raise _no_update(lower)
    return lower.tangents[target].response(adjoint.total() or ())


def _no_update(lower: LiveProblem) -> RunError:
    return RunError(f"{lower.name!r} has made no update yet: there is no trajectory to differentiate")


def _holding(lower: LiveProblem, segment: Segment) -> AbstractContextManager[None]:
    if not lower.objective.reruns:
        return nullcontext()
    read = {reading.problem: reading.tensors for reading in segment.readings}
    return lower.objective.holding({lower.name: segment.before, **read}, buffers=True)
