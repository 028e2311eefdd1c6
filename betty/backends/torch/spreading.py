"""What was saved whole, spread over the processes that share a problem's parameters; the counterpart of gathering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from betty.backends.torch.adaptation import LastUpdate
from betty.backends.torch.program import LiveProblem, Program
from betty.backends.torch.sharding import alike
from betty.backends.torch.tree import Tree, sharded
from betty.ir.plan import Plan

State = dict[str, Any]


def spread(parts: Mapping[str, State], program: Program, plan: Plan) -> None:
    """Spread the parts of problems as the parameters that they belong to; each process has all of them.

    Args:
        parts: By problem, as a checkpoint has them; changed in place.
        program: The one that goes on.
        plan: Says whose response has left what in a problem's memory.
    """
    shared = {name for name, one in program.problems.items() if any(map(sharded, one.parameters))}
    for name in shared & set(parts):
        _spread(parts[name], program[name])
    for step in plan if shared else ():
        for item in step.responses:
            memory = parts[step.problem]["memories"].get(item.slot, {})
            if item.problem in shared:
                memory.update({key: _tree(value, program.parameters(item.problem)) for key, value in memory.items()})


def mesh_of(program: Program) -> Any:
    """The processes that share parameters, as a ``DeviceMesh``; ``None`` where none do."""
    leaves = (leaf for problem in program.problems.values() for leaf in problem.parameters)
    return next((cast("Any", leaf).device_mesh for leaf in leaves if sharded(leaf)), None)


def _spread(saved: State, problem: LiveProblem) -> None:
    named = dict(problem.module.named_parameters(remove_duplicate=False))
    module = saved["module"]
    saved["module"] = {key: alike(value, named[key]) if key in named else value for key, value in module.items()}
    saved["accumulated"] = _tree(saved["accumulated"], problem.parameters)
    if saved["optimizer"] is not None and problem.optimizer is not None:
        held = [leaf for group in problem.optimizer.param_groups for leaf in group["params"]]
        states = {index: _state(state, held[index]) for index, state in saved["optimizer"]["state"].items()}
        saved["optimizer"] = {**saved["optimizer"], "state": states}
    if saved["last"] is not None:
        saved["last"] = _last(saved["last"], problem.parameters)


def _last(last: LastUpdate, parameters: Tree) -> LastUpdate:
    return replace(
        last,
        gradient=_tree(last.gradient, parameters),
        parameters=_tree(last.parameters, parameters),
        states=tuple(_state(state, leaf) for state, leaf in zip(last.states, parameters, strict=False)),
    )


def _state(state: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
    return {key: alike(value, like) for key, value in state.items()}


def _tree(value: Any, parameters: Sequence[Tensor]) -> Any:
    """Spread as the parameters are; what is no tree of their shape stays as it is."""
    if not isinstance(value, tuple) or len(value) != len(parameters):
        return value
    return tuple(cast("Tensor", alike(one, leaf)) for one, leaf in zip(value, parameters, strict=True))
