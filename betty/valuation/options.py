"""A method of valuation and its options, as users write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from betty.ir.diagnostics import BettyError, listing, nearest
from betty.ir.valuations import VALUATIONS, ValuationMethod, Valuing, valuation
from betty.spec.method import option_issues


@dataclass(frozen=True)
class Chosen:
    """A method with every option written out."""

    method: ValuationMethod

    @property
    def name(self) -> str:
        return self.method.solver.name

    @property
    def declared(self) -> Valuing:
        return self.method.declared

    @property
    def plain(self) -> bool:
        """Whether scores are products of gradients, without curvature and without ``1/N``."""
        return not self.declared.curvature

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.method.solver.options)

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    def record(self) -> dict[str, Any]:
        """What is written beside stored gradients; another method cannot use them."""
        return {"name": self.name, **self.options}


def choose(method: str | Mapping[str, Any] | ValuationMethod, options: Mapping[str, Any]) -> Chosen:
    """The method of a name, or of a mapping with ``name``, and options that stand beside it.

    Raises:
        BettyError: There is no such method, or something is wrong with its options: all of it in one message.
    """
    if isinstance(method, ValuationMethod):
        return Chosen(method)
    written = {"name": method} if isinstance(method, str) else dict(method)
    name = written.pop("name", None)
    allowed = list(VALUATIONS)
    if name not in VALUATIONS:
        near = nearest(str(name), allowed) if name is not None else ""
        raise BettyError(
            f"method: {name!r} is not a method of valuation: expected one of {listing(allowed, len(allowed))}"
            + (f" (did you mean {near!r}?)" if near else "")
        )
    given = {**written, **options}
    if wrong := list(option_issues(f"method {name!r}", VALUATIONS[name].options, given, ())):
        lines = [
            f"{one.message}"
            + (f" ({'.'.join(map(str, one.at))})" if one.at and not one.key else "")
            + f": expected {one.expected}"
            + (f" (did you mean {one.hint!r}?)" if one.hint else "")
            for one in wrong
        ]
        raise BettyError("\n".join(lines))
    return Chosen(valuation(name, given))
