"""betty: a compiler for gradient-based multilevel optimization in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from betty.backends.torch.errors import RunError
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.envs import Env
    from betty.ir.diagnostics import BettyError, GraphError, PlanError, SpecError
    from betty.problems import ImplicitProblem, IterativeProblem, Problem
    from betty.result import History, Result
    from betty.spec.models import EdgeSpec, EngineSpec, ProblemSpec, Spec

__version__ = "0.1.0"

__all__ = [
    "BettyError",
    "Config",
    "EdgeSpec",
    "Engine",
    "EngineConfig",
    "EngineSpec",
    "Env",
    "GraphError",
    "History",
    "ImplicitProblem",
    "IterativeProblem",
    "PlanError",
    "Problem",
    "ProblemSpec",
    "Result",
    "RunError",
    "Spec",
    "SpecError",
    "__version__",
]

# Imported when first used: `betty --help` and `betty compile --static` do without torch.
_HOMES = {
    "BettyError": "betty.ir.diagnostics",
    "Config": "betty.configs",
    "EdgeSpec": "betty.spec.models",
    "Engine": "betty.engine",
    "EngineConfig": "betty.configs",
    "EngineSpec": "betty.spec.models",
    "Env": "betty.envs",
    "GraphError": "betty.ir.diagnostics",
    "History": "betty.result",
    "ImplicitProblem": "betty.problems",
    "IterativeProblem": "betty.problems",
    "PlanError": "betty.ir.diagnostics",
    "Problem": "betty.problems",
    "ProblemSpec": "betty.spec.models",
    "Result": "betty.result",
    "RunError": "betty.backends.torch.errors",
    "Spec": "betty.spec.models",
    "SpecError": "betty.ir.diagnostics",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'betty' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
