"""Reading a Python file beside a spec without importing it: which names it has and what they take."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from betty.ir.diagnostics import listing, nearest
from betty.spec.issues import Issue
from betty.spec.positions import relative
from betty.spec.targets import Address, TargetError

CALLS = ("__call__", "forward")


@dataclass(frozen=True)
class Outline:
    """What is known of a target without importing it.

    Args:
        call: The signature with which it is called; ``None`` if unknown.
        result: For a class, the signature of its instances; ``None`` if unknown.
        is_class: Whether it is one.
    """

    call: inspect.Signature | None = None
    result: inspect.Signature | None = None
    is_class: bool = False


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Names:
    """The names of a module as its text shows them.

    Args:
        bound: All of them.
        defined: Those that are bound exactly once, by ``def`` or ``class``.
        complete: Whether there can be no others.
    """

    bound: set[str]
    defined: dict[str, Definition]
    complete: bool


def outline(address: Address, names: Names) -> Outline:
    """What the text of a module says of the target at ``address``.

    Raises:
        TargetError: The module surely has no such name.
    """
    name = address.names[0]
    if name not in names.bound and names.complete:
        raise TargetError(_missing(address, name, sorted(names.defined)))
    found = names.defined.get(name)
    return _outline(found) if found is not None and len(address.names) == 1 else Outline()


def read_names(file: Path, module: str) -> Names:
    """The names that ``file`` gives its ``module``.

    Raises:
        TargetError: The file is no Python.
    """
    return _scan(_parse(file, module))


def _parse(file: Path, module: str) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except SyntaxError as error:
        message = f"reading {module!r} found SyntaxError: {error.msg}, at {relative(file)}:{error.lineno}"
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        message = f"reading {module!r} failed: {type(error).__name__}"
    raise TargetError(Issue(code="import-failed", message=message, expected="a module that can be imported"))


def _scan(tree: ast.Module) -> Names:
    names: set[str] = set()
    defined: dict[str, Definition] = {}
    complete = True
    for node in _statements(tree.body):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            complete = False
        for name in _bound(node):
            if name == "__getattr__":
                complete = False
            if isinstance(node, Definition) and name not in names:
                defined[name] = node
            else:
                defined.pop(name, None)
            names.add(name)
    return Names(names, defined, complete)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, those inside ``if``, ``try``, ``with`` and loops included."""
    for node in body:
        yield node
        if isinstance(node, Definition):
            continue
        for inner in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, inner, []))
        for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
            yield from _statements(part.body)


def _bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, Definition):
        yield node.name
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        return
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id


def _outline(found: Definition) -> Outline:
    if isinstance(found, ast.ClassDef):
        methods = {one.name: one for one in found.body if isinstance(one, ast.FunctionDef)}
        plain = not found.bases and not found.decorator_list and not found.keywords
        call = _signature(methods["__init__"], skip=1) if "__init__" in methods and not found.decorator_list else None
        if call is None and plain and not {"__init__", "__new__"} & set(methods):
            call = inspect.Signature()
        used = next((methods[name] for name in CALLS if name in methods), None)
        return Outline(call, _signature(used, skip=1) if used else None, is_class=True)
    return Outline(_signature(found))


def _signature(function: ast.FunctionDef | ast.AsyncFunctionDef, skip: int = 0) -> inspect.Signature | None:
    """The signature as written; ``None`` under decorators, which may change it."""
    if function.decorator_list:
        return None
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    with_default = {one.arg for one in positional[len(positional) - len(arguments.defaults) :]}
    with_default |= {
        one.arg for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value is not None
    }
    return inspect.Signature(list(_parameters(arguments, with_default, skip)))


def _parameters(arguments: ast.arguments, with_default: set[str], skip: int) -> Iterator[inspect.Parameter]:
    kinds: Mapping[inspect._ParameterKind, Sequence[ast.arg]] = {
        inspect.Parameter.POSITIONAL_ONLY: arguments.posonlyargs,
        inspect.Parameter.POSITIONAL_OR_KEYWORD: arguments.args,
        inspect.Parameter.VAR_POSITIONAL: [arguments.vararg] if arguments.vararg else [],
        inspect.Parameter.KEYWORD_ONLY: arguments.kwonlyargs,
        inspect.Parameter.VAR_KEYWORD: [arguments.kwarg] if arguments.kwarg else [],
    }
    seen = 0
    for kind, group in kinds.items():
        for one in group:
            seen += 1
            if seen > skip:
                default = None if one.arg in with_default else inspect.Parameter.empty
                yield inspect.Parameter(one.arg, kind, default=default)


def _missing(address: Address, name: str, defined: list[str]) -> Issue:
    near = nearest(name, defined)
    return Issue(
        code="no-name",
        message=f"{address.module!r} has no {name!r}",
        expected=f"one of {listing(defined)}" if defined else "",
        hint=f"{address.module}:{near}" if near else "",
    )
