"""Forward mode: the derivative of a problem's parameters by other problems', carried along with its updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.autograd import forward_ad

from betty.backends.torch.duals import dual_level, duals, tangent
from betty.backends.torch.objective import Sample
from betty.backends.torch.tape import updated
from betty.backends.torch.trajectory.tuning import tuned_groups
from betty.backends.torch.tree import Tree, add, detach, dot, scale, zeros_like
from betty.backends.torch.updates import Group, State, clip, rule_for

if TYPE_CHECKING:
    from betty.backends.torch.program import LiveProblem


@dataclass(eq=False)
class Column:
    """The derivative by one scalar of another problem: of parameters, optimiser state and the gradient so far.

    ``direction`` is one where that scalar stands, in a tree of the other problem's shape.
    """

    problem: str
    direction: Tree
    parameters: Tree
    states: tuple[dict[str, Tensor], ...]
    gradient: Tree | None = None


class Tangents:
    r"""Carry :math:`Z = d\theta / dx` along for one target; its response is :math:`Z^T \lambda`.

    An update is :math:`(\theta, s) \mapsto u(\theta, s, \nabla L(\theta, x), x)`; a column of :math:`Z`, and of the
    derivative of the optimiser's state beside it, passes through as a dual number: forward mode over the reverse mode
    of the gradient, then through the update itself. Nothing is kept of earlier updates.

    With ``reset`` a step of the target sets the columns to zero, so that the response is the exact derivative of the
    updates since then. Without, they are carried on for ever (RTHO), and past updates count although the target has
    moved between them. Inexact beyond that where a problem between this one and the target has moved among those
    updates, and where another problem has read this one at an earlier version than the present.

    Cost: for each scalar of what the loss reads, two to three gradients an update; memory: as many copies of the
    parameters and the optimiser's state, whatever the number of updates.

    Reference: Franceschi, Donini, Frasconi and Pontil (2017), arXiv:1703.01785, algorithm 2 and section 3.3.

    Args:
        by: Problems that the parameters are differentiated by.
        reset: Whether a step of the target begins anew.
    """

    def __init__(self, by: Sequence[str], *, reset: bool) -> None:
        self.by, self.reset = tuple(by), reset
        self.columns: list[Column] = []
        self.stale = False
        """Whether the next update begins anew; until then there is something to look at."""

    def same_as(self, other: Tangents | None) -> bool:
        """Whether ``other`` carries the same derivatives."""
        return other is not None and (self.by, self.reset) == (other.by, other.reset)

    def begin(self, problem: LiveProblem, reads: Mapping[str, Tree], origin: str | None) -> None:
        """Before an update: columns where there are none yet; identity for the problem that it begins anew from."""
        if origin is not None or self.stale:
            self.forget()
        if self.columns:
            return
        for name in self.by:
            for direction in _units(reads[name]):
                start = direction if name == origin else zeros_like(problem.parameters)
                self.columns.append(Column(name, direction, start, tuple({} for _ in problem.parameters)))

    def gain(self, problem: LiveProblem, sample: Sample, reads: Mapping[str, Tree]) -> None:
        """Add what the gradient of one more micro-batch depends on; before the micro-batch itself is evaluated."""
        for column in self.columns:
            found = _of_gradient(problem, sample, column, reads)
            column.gradient = found if column.gradient is None else add(column.gradient, found)

    def gather(self, together: Callable[[Tree], Tree]) -> None:
        """Take the mean over all processes of what the gradient so far depends on."""
        found = iter(together(tuple(part for column in self.columns for part in column.gradient or ())))
        for column in self.columns:
            column.gradient = tuple(next(found) for _ in column.gradient or ())

    def close(
        self,
        problem: LiveProblem,
        gradient: Tree,
        groups: Sequence[Group | None],
        reads: Mapping[str, Tree],
        micros: int,
    ) -> None:
        """Pass every column through the update that ``gradient`` (averaged, not clipped) is about to make."""
        for column in self.columns:
            part = scale(1 / micros, column.gradient or ())
            column.parameters, column.states = _through(problem, column, (gradient, part), groups, reads)
            column.gradient = None

    def response(self, adjoint: Tree) -> dict[str, Tree]:
        """``Z^T adjoint`` for every problem that is differentiated by; empty before the first update."""
        found: dict[str, Tree] = {}
        for column in self.columns:
            part = scale(dot(column.parameters, adjoint).to(column.direction[0].dtype), column.direction)
            found[column.problem] = add(found[column.problem], part) if column.problem in found else part
        return found

    def forget(self) -> None:
        self.columns, self.stale = [], False

    def drop(self) -> None:
        """Forget the micro-batches of an update that is not made."""
        for column in self.columns:
            column.gradient = None

    def mark(self) -> Callable[[], None]:
        """A call that takes back the gradients of micro-batches since, if no update was made."""
        columns, stale = list(self.columns), self.stale
        gradients = [column.gradient for column in columns]

        def undo() -> None:
            self.columns, self.stale = list(columns), stale
            for column, gradient in zip(columns, gradients, strict=True):
                column.gradient = gradient

        return undo


def _units(tree: Tree) -> Iterator[Tree]:
    """The unit vectors of the space that a tree lies in."""
    for index, leaf in enumerate(tree):
        for entry in range(leaf.numel()):
            unit = zeros_like(tree)
            unit[index].view(-1)[entry] = 1
            yield unit


def _of_gradient(problem: LiveProblem, sample: Sample, column: Column, reads: Mapping[str, Tree]) -> Tree:
    primals = tuple(leaf.detach().requires_grad_() for leaf in problem.parameters)
    objective = problem.objective
    with dual_level(switches=objective.switches), objective.differentiable():
        stand_ins = {problem.name: duals(primals, column.parameters), **_moved(column, reads)}
        gradient = objective.gradient(sample, stand_ins, primals)
        return tuple(tangent(part).detach() for part in gradient)


def _moved(column: Column, reads: Mapping[str, Tree]) -> dict[str, Tree]:
    """The problem that a column is by, with its direction as tangent."""
    name = column.problem
    return {name: duals(tuple(leaf.detach() for leaf in reads[name]), column.direction)}


def _through(
    problem: LiveProblem,
    column: Column,
    gradient: tuple[Tree, Tree],
    groups: Sequence[Group | None],
    reads: Mapping[str, Tree],
) -> tuple[Tree, tuple[dict[str, Tensor], ...]]:
    """The column after an update: parameters and states."""
    assert problem.optimizer is not None
    rule = rule_for(problem.optimizer)
    assert rule is not None
    with dual_level():
        present = {**{name: detach(tree) for name, tree in reads.items()}, **_moved(column, reads)}
        states = tuple(
            _dual_state(problem.optimizer.state.get(live, {}), known)
            for live, known in zip(problem.parameters, column.states, strict=True)
        )
        after, states_after = updated(
            rule,
            duals(tuple(leaf.detach() for leaf in problem.parameters), column.parameters),
            clip(duals(*gradient), problem.gradient_clipping),
            states,
            tuned_groups(groups, problem.tuned, present),
        )
        return tuple(tangent(leaf) for leaf in after), tuple(map(_tangent_state, states_after))


def _dual_state(state: Mapping[str, Tensor | None], tangents: Mapping[str, Tensor]) -> State:
    """The optimiser's state beside one parameter, with the tangents that are known of it."""
    return {
        key: forward_ad.make_dual(value, tangents[key]) if key in tangents else value
        for key, value in state.items()
        if value is not None
    }


def _tangent_state(state: State) -> dict[str, Tensor]:
    found = {key: forward_ad.unpack_dual(value).tangent for key, value in state.items() if value.is_floating_point()}
    return {key: value for key, value in found.items() if value is not None}
