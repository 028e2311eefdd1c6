"""What an engine is made from: a spec, or classes and their settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from betty.configs import EngineConfig
from betty.ir.diagnostics import BettyError
from betty.problems.problem import Problem


def sorted_out(spec: Any, config: Any, problems: Sequence[Problem] | None) -> tuple[Any, EngineConfig]:
    """The program, a list if it is one of classes, and its settings, wherever among the arguments they were given.

    Raises:
        BettyError: There is no program, or there are two.
    """
    if isinstance(spec, EngineConfig):  # the order of earlier versions of the first Betty
        spec, config = config, spec
    if isinstance(spec, list | tuple):
        spec, problems = None, spec if problems is None else problems
    if (spec is None) == (problems is None):
        raise BettyError(
            "an engine runs one program: Engine('spec.yaml') or Engine(problems=[...], dependencies={...})"
        )
    if config is not None and not isinstance(config, EngineConfig):
        raise BettyError(f"config is {type(config).__name__}: expected an EngineConfig")
    return (spec if problems is None else list(problems)), config if config is not None else EngineConfig()
