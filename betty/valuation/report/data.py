"""What a report tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from betty.valuation.results import Top
from betty.valuation.trust.brittleness import Curve
from betty.valuation.trust.trust import Trust

Show = Callable[[int], Any]
"""From the id of an example, or the place of a query, to what is shown of it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportData:
    """What a report tells; parts that are not given are left out.

    Args:
        title: Of the page.
        method: The method with its options.
        model: What was valued, as people read it.
        examples: How many.
        size: Bytes of the store.
        facts: More of these, by name.
        top: The most helpful and most harmful examples of the queries that are shown.
        query_losses: Of those queries, ``[queries]``.
        show: From an example's id to an image, a text or numbers; nothing by default.
        labels: From an example's id to a few words beside it.
        show_query: From a query's place to the same.
        query_labels: From a query's place to a few words.
        values: Of all examples, over all queries, ``[examples]``.
        ids: Of all examples, ``[examples]`` (``[tokens, 2]``).
        self_influence: Of all examples.
        losses: Training losses of all examples.
        outliers: How many examples of high self-influence are listed.
        trust: What a check found.
        curve: Where there is no check, its part about leaving examples out.
    """

    title: str
    method: str
    model: str
    examples: int
    size: int | None = None
    facts: Mapping[str, str] | None = None
    top: Top | None = None
    query_losses: Tensor | Sequence[float] | None = None
    show: Show | None = None
    labels: Show | None = None
    show_query: Show | None = None
    query_labels: Show | None = None
    values: Tensor | None = None
    ids: Tensor | None = None
    self_influence: Tensor | None = None
    losses: Tensor | None = None
    outliers: int = 12
    trust: Trust | None = None
    curve: Curve | None = None

    @property
    def removals(self) -> Curve | None:
        """What leaving examples out does."""
        if self.curve is not None or self.trust is None:
            return self.curve
        return self.trust.curve


def name(found: Any) -> str:
    """An id as people read it: ``#12``, or ``#12:5`` of a token."""
    return "#" + ":".join(str(part) for part in (found if isinstance(found, list) else [found]))


def example(found: Any) -> int:
    """The example of an id, which a token shares with others."""
    return int(found[0] if isinstance(found, list) else found)
