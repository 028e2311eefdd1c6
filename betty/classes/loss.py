"""The loss of a class program: ``training_step`` of a problem, and copies of it over copied modules."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from betty.problems.problem import Problem


class TrainingStep:
    """Calls a problem's ``training_step``; the problems that it reads are attributes of the problem.

    A deep copy is the same step of shallow twins of all problems, whose modules are deep copies by the same memo.

    Args:
        name: The problem.
        problems: All problems of the program by name.
        env: The environment, or ``None``.
    """

    def __init__(self, name: str, problems: Mapping[str, Problem], env: Any = None) -> None:
        self.name, self.problems, self.env = name, problems, env

    @property
    def problem(self) -> Problem:
        return self.problems[self.name]

    def __call__(self, batch: Any, **_: Any) -> Any:
        return self.problem.training_step(batch)

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingStep:
        key = id(self.problems)
        if key not in memo:
            memo[key] = _twins(self.problems, self.env, memo)
        problems, env = memo[key]
        return TrainingStep(self.name, problems, env)


def _twins(problems: Mapping[str, Problem], env: Any, memo: dict[int, Any]) -> tuple[dict[str, Problem], Any]:
    """Shallow copies that know one another and hold copied modules."""
    twins = {name: copy.copy(problem) for name, problem in problems.items()}
    aside = copy.copy(env)
    for name, twin in twins.items():
        twin.__dict__["_module"] = copy.deepcopy(problems[name].module, memo)
        twin.__dict__["env"] = aside
        twin.__dict__.update({other: one for other, one in twins.items() if other != name})
    if aside is not None:
        aside.__dict__.update(twins)
    return twins, aside
