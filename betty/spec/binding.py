"""Can an object be called with the arguments that a spec gives? And, if so, a factory that does it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from betty.ir.diagnostics import nearest
from betty.spec.issues import Issue, kind_of, one_of

BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def makes_things(found: Any, needs: Collection[str]) -> bool:
    """Whether ``found`` is called to make a thing, and not the thing itself, which has one of ``needs``."""
    if inspect.isclass(found) or inspect.isroutine(found) or isinstance(found, functools.partial):
        return True
    return callable(found) and not any(hasattr(found, name) for name in needs)


def argument_issues(
    called: str, signature: inspect.Signature, args: Mapping[str, Any], filled: int = 0
) -> Iterator[Issue]:
    """What is wrong with a call by keywords ``args`` after ``filled`` positional arguments."""
    parameters = list(signature.parameters.values())
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    taken, rest = _after(parameters, filled)
    allowed = [one.name for one in rest if one.kind in BY_NAME]
    for key in args:
        if key in taken:
            yield _issue(key, f"{called} gets its argument {key!r} from the program", allowed)
        elif key not in allowed and not open_ended:
            yield _issue(key, f"{called} takes no argument {key!r}", allowed)
    missing = [one.name for one in rest if one.default is inspect.Parameter.empty and one.name not in args]
    for name in missing:
        message = f"{called} needs an argument {name!r}"
        expected = f"a value for {name}"
        yield Issue(code="missing-argument", message=message, expected=expected, hint=f"args: {{{name}: ...}}")
    if not missing and filled and not _takes(parameters, filled):
        yield Issue(code="not-callable", message=f"{called} takes no positional argument", expected=_expected(allowed))


def _after(parameters: list[inspect.Parameter], filled: int) -> tuple[set[str], list[inspect.Parameter]]:
    """Names that the positional arguments fill, and the parameters that are left."""
    positional = [
        one
        for one in parameters
        if one.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    taken = {one.name for one in positional[:filled]}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return taken, [one for one in parameters if one.name not in taken and one.kind not in variadic]


def _takes(parameters: list[inspect.Parameter], count: int) -> bool:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    variadic = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters)
    return variadic or sum(one.kind in positional for one in parameters) >= count


def _issue(key: str, message: str, allowed: list[str]) -> Issue:
    return Issue(
        code="unknown-argument",
        message=message,
        at=("args", key),
        expected=_expected(allowed),
        hint=nearest(key, allowed),
        key=True,
    )


def _expected(allowed: list[str]) -> str:
    return one_of(allowed) if allowed else "no arguments"


def call_issues(called: str, found: Any, args: Mapping[str, Any], filled: int = 0) -> list[Issue]:
    """What is wrong with calling ``found``; nothing where Python does not know its signature."""
    try:
        signature = inspect.signature(found)
    except (ValueError, TypeError):
        return []
    return list(argument_issues(called, signature, args, filled))


def instance_issues(called: str, found: Any, role: str, needs: Collection[str], args: Mapping[str, Any]) -> list[Issue]:
    """What keeps the live or imported ``found`` from being the ``role`` as it is: it has none of ``needs``."""
    if not any(hasattr(found, name) for name in needs):
        return [
            Issue(
                code="not-callable",
                message=f"{called} is {kind_of(found)}, which is no {role}",
                expected=f"a class or function that makes one, or a {role} itself",
            )
        ]
    if args:
        message = f"{called} is {kind_of(found)} and cannot be called with arguments"
        return [Issue(code="not-callable", message=message, expected="no args, or a class or function")]
    return []


def factory(found: Any, args: Mapping[str, Any], made: bool) -> Callable[..., Any]:
    """Calls ``found`` with ``args`` after its positional arguments; what is ``made`` already is returned as it is."""
    return _Given(found) if made else functools.partial(found, **args)


class _Given:
    """A factory that made its product before."""

    def __init__(self, product: Any) -> None:
        self.product = product

    def __call__(self, *_: Any) -> Any:
        return self.product
