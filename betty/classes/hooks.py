"""The hooks that a class program has around updates."""

from __future__ import annotations

import inspect
from typing import Any

from betty.backends.torch.tree import Tree
from betty.problems.problem import Problem


class UpdateHooks:
    """``grad_callback``, ``custom_optimizer_step`` and ``param_callback`` of a problem, as the executor calls them.

    Each may take nothing, or one argument: the list of trainable parameters.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.edits = problem.is_implemented("grad_callback")
        self.replaces = problem.is_implemented("custom_optimizer_step")
        self._after = problem.is_implemented("param_callback")

    @classmethod
    def of(cls, problem: Problem) -> UpdateHooks | None:
        """The hooks of a problem, or ``None`` if it has none."""
        found = cls(problem)
        return found if found.edits or found.replaces or found._after else None

    def gradient(self, parameters: Tree) -> None:
        if self.edits:
            self._call("grad_callback", parameters)

    def update(self) -> None:
        self._call("custom_optimizer_step", ())

    def updated(self, parameters: Tree) -> None:
        if self._after:
            self._call("param_callback", parameters)

    def _call(self, name: str, parameters: Tree) -> None:
        hook = getattr(self._problem, name)
        if takes_one(hook) and name != "custom_optimizer_step":
            hook(list(parameters))
        else:
            hook()


def takes_one(hook: Any) -> bool:
    """Whether a bound method needs an argument."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(
        one.kind in kinds and one.default is inspect.Parameter.empty
        for one in inspect.signature(hook).parameters.values()
    )
