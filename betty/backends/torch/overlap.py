"""Which backward pass gives the last of a gradient, so that its mean over all processes can be taken meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from betty.backends.torch.frame import Frame
from betty.backends.torch.methods.base import Last, Lower, nothing
from betty.backends.torch.methods.widened import narrow
from betty.backends.torch.program import LiveProblem
from betty.backends.torch.reduction import Change, Reduction
from betty.backends.torch.tree import Scalar, Tree, sharded
from betty.ir.plan import Respond, Step, Update


def overlapping(frame: Frame, step: Step, taped: bool) -> AbstractContextManager[None]:
    """Around the backward pass of a step's own loss: where nothing is added to it, its mean is taken meanwhile."""
    problem = frame.problem
    if taped or step.responses or not _due(frame, step):
        return nullcontext()
    return _begun(problem, lambda index, part: _accumulated(problem, step, index, part))


def last_pass(frame: Frame, step: Step, item: Respond, point: Lower) -> Last:
    """What to enter around the last backward pass of a response by differences, if the hypergradient ends with it.

    As SAMA does: Choe et al. (2023), arXiv:2310.05674, section 3.3.
    """
    problem, into = frame.problem, dict(item.into)
    last = step.responses and step.responses[-1] is item
    alone = last and into == {problem.name: ""} and len(point.samples) == 1
    if not alone or point.objective.sharded or narrow(point) or not _due(frame, step):
        return nothing

    def entered(ahead: Mapping[str, Tree], factor: Scalar) -> AbstractContextManager[None]:
        first, direct = ahead[problem.name], frame.gradient

        def whole(index: int, part: Tensor) -> Tensor:
            found = -1.0 * (factor * (first[index] - part))
            return _accumulated(problem, step, index, direct[index] + found if direct else found)

        return _begun(problem, whole)

    return entered


def _due(frame: Frame, step: Step) -> bool:
    """Whether an update follows that takes the mean of a plain gradient."""
    problem = frame.problem
    update = next((item for item in step.instructions if isinstance(item, Update)), None)
    if problem.processes is None or frame.dry or update is None or not problem.parameters or problem.scaler is not None:
        return False
    if problem.objective.sharded or sharded(problem.parameters[0]):
        return False  # the means of shared parameters are taken on the way, in an order of their own
    return not update.tape and problem.count % update.every == 0


def _accumulated(problem: LiveProblem, step: Step, index: int, part: Tensor) -> Tensor:
    """With the gradients of the update's earlier micro-batches, the mean of all."""
    every = next(item.every for item in step.instructions if isinstance(item, Update))
    whole = part if problem.accumulated is None else problem.accumulated[index] + part
    return whole if every == 1 else (1 / every) * whole


def _begun(problem: LiveProblem, change: Change) -> AbstractContextManager[None]:
    assert problem.processes is not None
    problem.reduction = Reduction(problem.processes, problem.parameters, change)
    return problem.reduction.listening()
