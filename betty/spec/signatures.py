"""What a loss reads: the batch and problems, by the names of its arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from betty.ir.diagnostics import listing, nearest
from betty.spec.issues import Issue

BATCH = "batch"
GIVEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, kw_only=True)
class LossSignature:
    """How a loss is to be called, always by keyword.

    Args:
        batch: Whether it takes the batch, as ``batch``.
        reads: Problems that it names, in the order of its arguments; its own may be among them.
        options: Other arguments, all with a value already.
        everything: Whether it takes ``**kwargs``, and so every problem that a flow brings.
    """

    batch: bool = False
    reads: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    everything: bool = False

    @property
    def known(self) -> tuple[str, ...] | None:
        """The problems that the loss reads for certain; ``None`` where it takes whatever it is given."""
        return None if self.everything else self.reads


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """The signature of a function, a callable object or a module's ``forward``; ``None`` where there is none."""
    try:
        return inspect.signature(_called(function))
    except (ValueError, TypeError):
        return None


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    """What really takes the arguments: ``__call__`` of a torch module hides them behind ``*args``."""
    if isinstance(function, functools.partial):
        return function
    forward = getattr(function, "forward", None)
    is_module = callable(forward) and hasattr(function, "named_parameters") and not inspect.isclass(function)
    return forward if is_module and forward is not None else function


def bound_names(function: Callable[..., Any]) -> frozenset[str]:
    """Arguments that a ``functools.partial`` has filled in."""
    if not isinstance(function, functools.partial):
        return frozenset()
    return frozenset(function.keywords) | bound_names(function.func)


def loss_signature(
    signature: inspect.Signature, problems: Collection[str], bound: Collection[str] = ()
) -> LossSignature:
    """What a loss with ``signature`` takes; names in ``bound`` are filled in already."""
    free = [one for one in signature.parameters.values() if one.name not in bound and one.kind not in GIVEN]
    named = [one.name for one in free]
    return LossSignature(
        batch=BATCH in named,
        reads=tuple(name for name in named if name in problems),
        options=tuple(name for name in named if name != BATCH and name not in problems),
        everything=any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.parameters.values()),
    )


def reading_issues(
    called: str, signature: inspect.Signature, problems: Sequence[str], bound: Collection[str] = (), batch: bool = True
) -> Iterator[Issue]:
    """Arguments of a loss, named ``called``, that nothing can fill; ``batch`` tells whether there is one."""
    allowed = list(dict.fromkeys([*([BATCH] if batch else []), *problems]))
    for one in signature.parameters.values():
        if one.name in bound or one.kind in GIVEN:
            continue
        if one.kind is inspect.Parameter.POSITIONAL_ONLY:
            message = f"{called} takes {one.name!r} by position only"
            yield Issue(code="bad-signature", message=message, expected="arguments that can be given by name")
        elif one.name == BATCH and not batch and one.default is inspect.Parameter.empty:
            message = f"{called} takes the batch, but there is none"
            yield Issue(code="unknown-read", message=message, expected=f"any of {listing(problems)}")
        elif one.name not in allowed and one.default is inspect.Parameter.empty:
            yield Issue(
                code="unknown-read",
                message=f"{called} reads {one.name!r}, which is no problem",
                expected=f"any of {listing(allowed)}, or a value for it under args",
                hint=nearest(one.name, allowed),
            )
