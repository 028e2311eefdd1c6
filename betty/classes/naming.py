"""Names of a class program: problems as attributes of one another, and hooks that are nearly spelled right."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from betty.ir.diagnostics import BettyError, Diagnostic
from betty.problems.problem import HOOKS, Problem

ENGINE_HOOKS = ("validation", "train_step")
ENV_HOOKS = ("step", "reset")


def connect(problems: Sequence[Problem], engine: Any, env: Any) -> None:
    """Make every problem an attribute of the others, of the engine and of the environment, under its name.

    Raises:
        BettyError: Two problems have one name, or a name is that of an attribute that is there already.
    """
    wrong = [*_doubles(problems)]
    for problem in problems:
        holders = [engine, *([env] if env is not None else []), *(one for one in problems if one is not problem)]
        wrong += [_clash(problem, holder) for holder in holders if _taken(holder, problem)]
    if wrong:
        raise BettyError(wrong)
    for problem in problems:
        for holder in (engine, env, *problems):
            if holder is not None and holder is not problem:
                setattr(holder, problem.name, problem)


def _taken(holder: Any, problem: Problem) -> bool:
    if hasattr(type(holder), problem.name):
        return True
    # A second engine over the same problems finds the attributes of the first.
    own = vars(holder)
    return problem.name in own and not isinstance(own[problem.name], Problem)


def _clash(problem: Problem, holder: Any) -> Diagnostic:
    who = repr(holder.name) if isinstance(holder, Problem) else type(holder).__name__
    return Diagnostic(
        code="name-clash",
        field=(),
        message=f"the problem {problem.name!r} would hide the attribute {problem.name!r} of {who}",
        expected="a name that is no attribute of the other problems, the engine and the environment",
        hint=f"name={problem.name + '_problem'!r}",
    )


def _doubles(problems: Sequence[Problem]) -> list[Diagnostic]:
    names = [problem.name for problem in problems]
    return [
        Diagnostic(code="name-clash", field=(), message=f"two problems are called {name!r}", expected="unique names")
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]


def warn_of_near_hooks(problems: Iterable[Problem], engine: Any, env: Any) -> None:
    """Warn of methods that miss the name of a hook by one letter, and would never be called."""
    for problem in problems:
        _warn(problem, Problem, HOOKS)
    if env is not None:
        _warn(env, _base(env), ENV_HOOKS)
    _warn(engine, _base(engine), ENGINE_HOOKS)


def _base(one: Any) -> type:
    """The class of betty's own that a program has derived its class from."""
    return next((kind for kind in type(one).__mro__ if kind.__module__.split(".")[0] == "betty"), object)


def _warn(one: Any, base: type, hooks: Sequence[str]) -> None:
    for kind in type(one).__mro__:
        if kind is base or kind.__module__.split(".")[0] == "betty" or kind is object:
            continue
        for name, member in vars(kind).items():
            if not callable(member) or name in hooks or hasattr(base, name):
                continue
            near = next((hook for hook in hooks if one_letter_off(name, hook)), None)
            if near is not None:
                warnings.warn(
                    f"{kind.__name__}.{name} is called by nothing: did you mean the hook {near!r}?", stacklevel=5
                )


def one_letter_off(found: str, wanted: str) -> bool:
    """Whether one letter is missing, too many, another one, or has changed places with its neighbour."""
    if found == wanted or abs(len(found) - len(wanted)) > 1:
        return False
    start = next(
        (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(map(len, (found, wanted)))
    )
    left, right = found[start:], wanted[start:]
    swapped = len(left) > 1 and left[1::-1] + left[2:] == right
    return left[1:] == right[1:] or left[1:] == right or left == right[1:] or swapped
