"""What the code of a loss may do beside computing: draw from Python's or NumPy's generators, switch gradients off,
compute parts again in its backward pass, attend.

Looking after each costs as much as a small training step, so a loss that cannot do it is spared.
"""

from __future__ import annotations

import dis
import functools
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from betty.backends.torch.plain import MODULES, NAMES

HARMLESS_ROOTS = frozenset(
    {"torch", "betty", "__future__", "abc", "builtins", "collections", "dataclasses", "enum"}
) | {"functools", "itertools", "math", "operator", "typing", "weakref", "_thread"}
DRAWING_ROOTS = frozenset({"random", "_random", "numpy"})
PLAIN = (str, bytes, int, float, complex, type(None), Tensor, torch.dtype, torch.device, range, slice)
CONTAINERS = (list, tuple, set, frozenset, deque)
NAMED = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
MOST = 20_000
"""Objects to look at before giving up."""
HEAP_TYPE = 1 << 9
"""Flag of classes that are made at run time, all that are written in Python among them (Py_TPFLAGS_HEAPTYPE)."""


def may_draw(loss: Callable[..., Any], modules: Iterable[nn.Module]) -> bool:
    """Whether a loss may draw from Python's or NumPy's global generators; torch's are always looked after.

    ``False`` only if all that the loss and the modules lead to is torch, plain values or code of the same kind.
    Followed are names in code, closures, defaults, attributes and containers. The answer errs to ``True``: another
    package, code that cannot be looked into, or too much to look at is enough.
    """
    return any(item is UNKNOWN for item in _reached(loss, modules))


def may_switch(loss: Callable[..., Any], modules: Iterable[nn.Module]) -> bool:
    """Whether a loss may compute something under ``torch.no_grad`` and the like, or something that forward mode needs a
    substitute for; errs to ``True`` as :func:`may_draw`.

    Modules of torch itself count as plain where they are layers (``torch.nn.modules``), and not where they are
    parametrizations and other machinery.
    """
    return any(item is UNKNOWN or _switches(item) for item in _reached(loss, modules))


def may_rerun(loss: Callable[..., Any], modules: Iterable[nn.Module]) -> bool:
    """Whether a backward pass may evaluate parts of the modules again, as activation checkpointing does; errs to
    ``True`` as :func:`may_draw`.

    Hooks on saved tensors and functions of :class:`torch.autograd.Function` count: their code runs in the backward
    pass too.
    """
    return any(item is UNKNOWN or _reruns(item) for item in _reached(loss, modules))


def may_attend(loss: Callable[..., Any], modules: Iterable[nn.Module]) -> bool:
    """Whether a loss may call torch's attention, whose fused kernels have no second derivative; errs to ``True`` as
    :func:`may_draw`. What is called attention counts as such.
    """
    return any(item is UNKNOWN or _attends(item) for item in _reached(loss, modules))


UNKNOWN = object()
"""Stands for something that cannot be looked into."""
SWITCHES = frozenset({"no_grad", "enable_grad", "set_grad_enabled", "inference_mode"}) | NAMES


RERUNS = (
    *("checkpoint", "saved_tensors_hooks", "save_on_cpu", "compile"),
    *("register_hook", "register_prehook", "backward_hook", "backward_pre_hook", "multi_grad_hook"),
)
ATTENDS = ("attention", "attn", "multihead", "multi_head", "transformer", "sdpa")


def _switches(item: Any) -> bool:
    if isinstance(item, nn.Module) and _harmless(type(item)):
        return _machinery(item) or type(item).__name__ in MODULES
    if isinstance(item, types.FunctionType):
        return any(not SWITCHES.isdisjoint(code.co_names) for code in _codes(item.__code__))
    kind = item if isinstance(item, type) else type(item)
    return kind.__module__ == "torch.autograd.grad_mode"


def _reruns(item: Any) -> bool:
    if isinstance(item, nn.Module) and (_machinery(item) or item._backward_hooks or item._backward_pre_hooks):
        return True
    if isinstance(item, type) and issubclass(item, torch.autograd.Function):
        return True
    return _speaks_of(item, RERUNS)


def _attends(item: Any) -> bool:
    return (isinstance(item, nn.Module) and _machinery(item)) or _speaks_of(item, ATTENDS)


def _machinery(module: nn.Module) -> bool:
    """A module of torch that is no layer."""
    name = type(module).__module__
    return _root(name) == "torch" and not name.startswith("torch.nn.modules")


def _speaks_of(item: Any, words: Sequence[str]) -> bool:
    """Whether one of ``words`` is part of a name of the item, of its class or in its code."""
    named = item if isinstance(item, NAMED) else type(item)
    names = [getattr(named, "__name__", None), getattr(named, "__module__", None)]
    if isinstance(item, types.FunctionType) and not _harmless(item):
        names += (name for code in _codes(item.__code__) for name in code.co_names)
    return any(word in name.lower() for name in names if isinstance(name, str) for word in words)


def _reached(loss: Callable[..., Any], modules: Iterable[nn.Module]) -> Iterator[Any]:
    """Everything that the loss and the modules lead to, until something :data:`UNKNOWN` ends it."""
    seen: dict[int, Any] = {}  # holds what it has seen, so that no id is used twice
    front: list[Any] = [loss, *modules]
    while front:
        item = front.pop()
        if isinstance(item, PLAIN) or id(item) in seen:
            continue
        if len(seen) == MOST or _foreign(item):
            yield UNKNOWN
            return
        seen[id(item)] = item
        yield item
        front.extend(_leads(item))


def _foreign(item: Any) -> bool:
    """Another package, or a class that may draw and cannot be looked into."""
    if isinstance(item, types.ModuleType):
        return _root(item.__name__) not in HARMLESS_ROOTS
    if isinstance(item, type) and not _harmless(item):
        return _root(item.__module__) in DRAWING_ROOTS or not item.__flags__ & HEAP_TYPE
    return False


def _leads(item: Any) -> Iterator[Any]:
    """What can be reached from ``item`` by running it or by looking into it."""
    if isinstance(item, types.FunctionType):
        yield from _of_function(item)
    elif isinstance(item, type):
        if not _harmless(item):
            yield from (*vars(item).values(), *item.__bases__)
    elif isinstance(item, dict):
        yield from item.values()
    elif isinstance(item, CONTAINERS):
        yield from item
    elif isinstance(item, types.MethodType | staticmethod | classmethod):
        yield from (item.__func__, getattr(item, "__self__", None))
    elif isinstance(item, types.BuiltinFunctionType):
        yield item.__self__  # such as the generator that `random.random` is a method of
    elif isinstance(item, property):
        yield from (item.fget, item.fset)
    elif isinstance(item, functools.partial):
        yield from (item.func, item.args, item.keywords)
    elif not isinstance(item, types.ModuleType) and type(item).__module__ != "numpy":  # arrays and numbers
        yield type(item)
        yield from getattr(item, "__dict__", {}).values()


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    """What a function closes over, its defaults, and what the names in its code lead to, unless it is torch's own."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from (function.__defaults__, function.__kwdefaults__)
    if _harmless(function):
        return
    for code in _codes(function.__code__):
        yield from (function.__globals__[name] for name in code.co_names if name in function.__globals__)
        yield from (types.ModuleType(name) for name in _imported(code))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


@functools.lru_cache(maxsize=4096)
def _imported(code: types.CodeType) -> tuple[str, ...]:
    """Modules that the code imports itself, and ways to reach any module at all.

    Kept, since to take code apart is most of the work and every objective comes by the same functions.
    """
    modules = (str(step.argval) for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME")
    return (*modules, *(name for name in ("__import__", "eval", "exec") if name in code.co_names))


def _harmless(item: Any) -> bool:
    return _root(getattr(item, "__module__", None) or "") in HARMLESS_ROOTS


def _root(name: str) -> str:
    return name.partition(".")[0]
