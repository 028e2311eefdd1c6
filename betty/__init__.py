"""betty: a compiler for gradient-based multilevel optimization in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from betty.backends.torch.errors import RunError
    from betty.engine import Engine
    from betty.ir.diagnostics import BettyError, GraphError, PlanError, SpecError
    from betty.result import History, Result
    from betty.spec.models import EdgeSpec, EngineSpec, ProblemSpec, Spec

__version__ = "0.1.0"

__all__ = [
    "BettyError",
    "EdgeSpec",
    "Engine",
    "EngineSpec",
    "GraphError",
    "History",
    "PlanError",
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
    "EdgeSpec": "betty.spec.models",
    "Engine": "betty.engine",
    "EngineSpec": "betty.spec.models",
    "GraphError": "betty.ir.diagnostics",
    "History": "betty.result",
    "PlanError": "betty.ir.diagnostics",
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
