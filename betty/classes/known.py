"""Which code belongs to a program, and the names through which that code reaches objects outside of any instance."""

from __future__ import annotations

import builtins
import enum
import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from betty.classes.codes import Names, names_in

MISSING: Any = object()
FOREIGN = frozenset(sys.stdlib_module_names) | {"betty", "torch", "numpy"}
"""Top-level packages that are no part of any program."""
INSTALLED = frozenset({"site-packages", "dist-packages"})
PARTS_OF_CODE = (FunctionType, MethodType, staticmethod, classmethod, property, functools.cached_property, type)

Namespace = dict[str, Any]


class Ownership:
    """Tells a program's own modules from packages.

    A module is the program's own if its top-level package is that of a root, or if it is neither part of Python,
    PyTorch, NumPy or betty nor lies where packages are installed.

    Args:
        modules: Of the roots' classes, by name.
    """

    def __init__(self, modules: Iterable[str]) -> None:
        roots = {name.partition(".")[0] for name in modules}
        self._known = dict.fromkeys(roots - FOREIGN, True) | dict.fromkeys(FOREIGN, False)

    def of(self, module: str | None) -> bool:
        """Whether a module of this name is the program's own."""
        if module is None:
            return False
        top = module.partition(".")[0]
        if top not in self._known:
            path = getattr(sys.modules.get(module), "__file__", None)
            self._known[top] = path is None or INSTALLED.isdisjoint(PurePath(path).parts)
        return self._known[top]


class Known:
    """What is known of a program's code; grows as functions and classes turn up, and is never read anew.

    Names that lead to functions, classes and modules are followed once, and taken to lead there for good; values of
    all other names are looked up each time.
    """

    def __init__(self, own: Ownership) -> None:
        self.own = own
        self.size = 0
        """Functions and classes so far."""
        self.edits = False
        """Whether some code may write into a tensor or an array."""
        self.reads: dict[int, tuple[Namespace, list[str]]] = {}
        """Names of each module that are looked up."""
        self.rebound: dict[int, tuple[Namespace, list[str]]] = {}
        """Names of each module that are assigned."""
        self.cells: list[CellType] = []
        self.defaults: list[Any] = []
        self.classes: list[tuple[type, tuple[str, ...]]] = []
        """Classes with the names of their data: attributes that are neither methods nor other descriptors."""
        self.attributes: list[Namespace] = []
        """Attributes of functions."""
        self._seen: dict[Any, Any] = {}

    def learn(self, value: Any) -> None:
        """Follow a function, a class, or another wrapping of code."""
        front = [value]
        while front:
            one = front.pop()
            if isinstance(one, FunctionType):
                front.extend(self._function(one))
            elif isinstance(one, type):
                front.extend(self._class(one))
            elif isinstance(one, MethodType | staticmethod | classmethod):
                front.append(one.__func__)
            elif isinstance(one, property):
                front.extend((one.fget, one.fset, one.fdel))
            elif isinstance(one, functools.cached_property):
                front.append(one.func)

    def _first(self, *key: Any) -> bool:
        """Whether something turns up for the first time; it is kept, so that no other takes its identity."""
        identity = tuple(one if isinstance(one, str) else id(one) for one in key)
        first = identity not in self._seen
        self._seen[identity] = key
        return first

    def _function(self, function: FunctionType) -> Iterator[Any]:
        # A function that is made anew at every step has the same code; its closure is looked at when it turns up.
        if not self._first(function.__code__, function.__globals__):
            return
        self.size += 1
        if hasattr(function, "__wrapped__"):
            yield function.__wrapped__
        if not self.own.of(function.__globals__.get("__name__")):
            return
        self.cells += function.__closure__ or ()
        self.defaults += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        if function.__dict__:
            self.attributes.append(function.__dict__)
        names = names_in(function.__code__)
        self.edits |= names.edits
        self._assigned(function.__globals__, names.writes)
        yield from self._names(function.__globals__, names.reads, names)
        yield from self._modules((sys.modules.get(name) for name in names.imports), names)

    def _assigned(self, space: Namespace, names: Iterable[str]) -> None:
        new = [name for name in sorted(names) if self._first(space, name, "rebound")]
        if new:
            self.rebound.setdefault(id(space), (space, []))[1].extend(new)

    def _names(self, space: Namespace, wanted: Iterable[str], names: Names) -> Iterator[Any]:
        """Code that names lead to; the others are kept, to be looked up each time."""
        for name in sorted(wanted):
            value = space.get(name, MISSING)
            if isinstance(value, ModuleType):
                yield from self._modules([value], names)
            elif isinstance(value, PARTS_OF_CODE) and name not in names.writes:
                yield value
            elif (value is not MISSING or not hasattr(builtins, name)) and self._first(space, name, "read"):
                self.reads.setdefault(id(space), (space, []))[1].append(name)

    def _modules(self, modules: Iterable[ModuleType | None], names: Names) -> Iterator[Any]:
        """What code reaches, or assigns, through the program's own modules."""
        for module in modules:
            if module is None or not self.own.of(module.__name__) or not self._first(module, names):
                continue
            space = vars(module)
            self._assigned(space, names.sets)
            yield from self._names(space, [name for name in names.looks if name in space], names)

    def _class(self, cls: type) -> Iterator[Any]:
        if not self.own.of(cls.__module__) or not self._first(cls):
            return
        self.size += 1
        yield from cls.__bases__
        yield from (value for value in vars(cls).values() if isinstance(value, PARTS_OF_CODE))
        data = tuple(name for name, value in vars(cls).items() if _is_data(name, value))
        if data and not issubclass(cls, enum.Enum):
            self.classes.append((cls, data))


def _is_data(name: str, value: Any) -> bool:
    return not (name.startswith("__") and name.endswith("__")) and not hasattr(type(value), "__get__")
