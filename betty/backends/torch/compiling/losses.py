"""A loss as compiled code, as far as it can be compiled."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from betty.backends.torch.compiling.backend import Backend, short
from betty.backends.torch.objective import LOG_PROB

Told = Callable[[str, str], None]
"""Told what is not compiled, and why."""
VARIANTS = 24
"""Shapes of micro-batches, times the three ways in which parameters are held: live, or standing in with and without a
gradient."""
KEPT = ("loss", LOG_PROB)


class CompiledLoss:
    """Calls a loss as one compiled graph; in pieces where it breaks into several; as it is written, where that fails.

    An error before anything has run makes it step down, and the call is made again. A loss that raises by itself does
    so there, as it would anyway.

    Args:
        loss: Called with keywords.
        backend: The name of what compiles.
        told: Told what is not compiled.
        host: Whether the loss may draw from NumPy's generators.
    """

    def __init__(self, loss: Callable[..., Any], backend: str, told: Told, *, host: bool) -> None:
        self._loss, self._told, self._host = loss, told, host
        failed = partial(told, "a part of the loss or of its gradient")
        self._backend = Backend(backend, failed, self._note)
        self._run: Callable[..., Any] | None = compiled(light(loss), self._backend, whole=True)
        self._whole, self._began = True, False

    def __call__(self, **arguments: Any) -> Any:
        # Compiled code has no tangents; neither may anything be traced under a mode that watches torch's functions.
        if self._run is None or forward_ad._current_level >= 0:
            return self._loss(**arguments)
        self._began = False
        try:
            with following(host=self._host):
                return self._run(**arguments)
        except Exception as error:
            if self._began:
                raise
            self._step_down(error)
        return self(**arguments)

    def _note(self) -> None:
        self._began = True

    def _step_down(self, error: Exception) -> None:
        reason = short(error)
        if self._whole and broke(error):
            self._whole = False
            self._run = compiled(light(self._loss), self._backend, whole=False)
            self._told("what lies between the compiled pieces of the loss", reason)
        else:
            self._run = None
            self._told("the loss and its gradient", reason)


def broke(error: Exception) -> bool:
    """Whether tracing came upon something that cannot be part of a graph, so that there may be graphs around it."""
    from torch._dynamo.exc import Unsupported, UserError

    return isinstance(error, Unsupported | UserError)


def compiled(function: Callable[..., Any], backend: Callable[..., Any], *, whole: bool) -> Callable[..., Any]:
    """``torch.compile`` of a copy of a function, which shares no limit on recompilations with others.

    Shapes are those of the tensors: so the code for a micro-batch does not depend on those before it, and a resumed run
    computes the same bits.
    """
    known = inspect.signature(torch.compile).parameters
    limit: dict[str, Any] = {"recompile_limit": VARIANTS} if "recompile_limit" in known else {}
    options = {"backend": backend, "fullgraph": whole, "dynamic": False, **limit}
    found: Callable[..., Any] = torch.compile(_copied(function), **options)
    return found


def _copied(function: Callable[..., Any]) -> Callable[..., Any]:
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace()
    return types.FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)


def following(*, host: bool) -> AbstractContextManager[Any]:
    """How losses are traced: those that may draw from NumPy's generators go on drawing from these."""
    if not host:
        return nullcontext()
    from torch._dynamo import config

    return config.patch(trace_numpy=False)  # type: ignore[no-any-return]


def light(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss whose metrics have no graph: the compiled backward pass would go through them too."""

    def evaluate(**arguments: Any) -> Any:
        value = loss(**arguments)
        if isinstance(value, Tensor) or not isinstance(value, Mapping):
            return value
        return {key: item if key in KEPT else _detached(item) for key, item in value.items()}

    return evaluate


def _detached(item: Any) -> Any:
    return item.detach() if isinstance(item, Tensor) else item
