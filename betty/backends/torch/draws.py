"""Whether a loss may draw from Python's or NumPy's global generators; torch's are always looked after."""

from __future__ import annotations

import dis
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

HARMLESS_ROOTS = ("torch", "betty", "math", "typing", "collections", "functools", "dataclasses", "abc", "__future__")


def may_draw(loss: Callable[..., Any], modules: Iterable[nn.Module]) -> bool:
    """``False`` only if all that the loss and the modules' code names is torch, plain values or such code itself.

    Taking and restoring the two states costs as much as a small training step, so a loss that cannot need it is
    spared. The answer errs to ``True``: a name that leads anywhere else (``random``, ``numpy``, another package)
    is enough.
    """
    seen: set[int] = set()
    if not _harmless(loss, seen):
        return True
    kinds = {type(part) for module in modules for part in module.modules()}
    return not all(_harmless(kind, seen) for kind in kinds)


def _harmless(item: Any, seen: set[int]) -> bool:
    if id(item) in seen:
        return True
    seen.add(id(item))
    if isinstance(item, types.ModuleType):
        return _root(item.__name__) in HARMLESS_ROOTS
    if isinstance(item, types.FunctionType):
        return _from_torch(item) or all(_harmless(found, seen) for found in _named(item))
    if isinstance(item, types.MethodType):
        return _harmless(item.__func__, seen) and _harmless(type(item.__self__), seen)
    if isinstance(item, type):
        return _harmless_class(item, seen)
    if callable(item):
        inner = getattr(item, "func", None)  # functools.partial
        return _harmless(inner, seen) if inner is not None else _from_torch(item) or _harmless(type(item), seen)
    return True


def _harmless_class(kind: type, seen: set[int]) -> bool:
    if kind.__module__ in ("builtins", "random", "numpy"):
        return kind.__module__ == "builtins"
    if _from_torch(kind):
        return True
    own = [value for value in vars(kind).values() if isinstance(value, types.FunctionType)]
    return all(_harmless(function, seen) for function in own) and all(_harmless(base, seen) for base in kind.__bases__)


def _from_torch(item: Any) -> bool:
    return _root(getattr(item, "__module__", None) or "") in (*HARMLESS_ROOTS, "builtins")


def _named(function: types.FunctionType) -> Iterator[Any]:
    """What the names in a function's code lead to: globals and the values that it closes over."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from function.__defaults__ or ()
    for code in _codes(function.__code__):
        yield from (function.__globals__[name] for name in code.co_names if name in function.__globals__)
        yield from (types.ModuleType(name) for name in _imported(code))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _imported(code: types.CodeType) -> Iterator[str]:
    """Modules that the code imports itself, and ways to reach any module at all."""
    yield from (str(step.argval) for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME")
    yield from (name for name in ("__import__", "eval", "exec") if name in code.co_names)


def _root(name: str) -> str:
    return name.partition(".")[0]
