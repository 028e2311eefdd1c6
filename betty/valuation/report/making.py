"""From a valuation and queries to what a report tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from betty.ir.diagnostics import BettyError
from betty.ir.quantities import plural
from betty.valuation.batches import to_batches
from betty.valuation.examples import Examples, answers, first, named, target
from betty.valuation.report.data import ReportData, Show, example
from betty.valuation.report.page import write_report
from betty.valuation.results import Top, picked
from betty.valuation.trust.trust import Trust

if TYPE_CHECKING:
    from betty.valuation.valuation import Valuation

SHOWN = 12
"""Queries that a page shows."""


def report(  # noqa: PLR0913 - one keyword for each independent choice
    valuation: Valuation,
    queries: Any,
    path: str | Path,
    *,
    k: int = 8,
    shown: int = SHOWN,
    data: Any = None,
    show: Show | None = None,
    labels: Show | Sequence[Any] | None = None,
    show_query: Show | None = None,
    query_labels: Show | Sequence[Any] | None = None,
    classes: Sequence[str] | None = None,
    own: bool = True,
    outliers: int = 12,
    title: str = "What the training examples are worth",
    trust: Trust | None = None,
) -> Path:
    """Write a page that shows queries with their examples, values, outliers, and how far to trust them.

    The page is one HTML file that loads nothing. Everything from data is escaped.

    Args:
        valuation: What has logged the training examples.
        queries: As for :meth:`Valuation.score`; ``None`` for self-influence alone.
        path: Of the file.
        k: Examples at either end of a query.
        shown: Queries that are shown, the first ones; values are over all.
        data: The training data, where the valuation has not logged it in this process.
        show: From the id of an example to an image (``[h, w]``, ``[c, h, w]``, a flat square, or PIL's), a text or
            numbers; the first part of the data's example by default.
        labels: From the id of an example, or by it, to a few words; the data's label by default.
        show_query: From the place of a query to the same as ``show``.
        query_labels: From the place of a query to a few words; its label and the model's prediction by default.
        classes: Names of the classes that labels count.
        own: Whether self-influence is shown; it takes a solve for each example with ``cg``, ``lissa`` and their like.
        outliers: How many examples of high self-influence are listed.
        title: Of the page.
        trust: What :meth:`Valuation.check` found.

    Raises:
        BettyError: Nothing has been logged, or the file cannot be written.
    """
    target_path = Path(path)
    if not target_path.parent.is_dir():  # said before the work
        raise BettyError(f"report {target_path}: there is no folder {str(target_path.parent)!r}")
    found = _Asked(valuation, queries, k, shown) if queries is not None else None
    influence = valuation.self_influence() if own else None
    source = data if data is not None else valuation._data
    known = Examples(source) if source is not None and not _renumbered(valuation, data) else None
    asked = Examples(found.batches) if found is not None else None
    if known is not None:
        known.fetch(_needed(valuation, found, influence, outliers))
    if asked is not None and found is not None:
        asked.fetch(range(len(found.top)))
    return write_report(
        target_path,
        ReportData(
            title=title,
            method=valuation.method.method.brief(),
            model=_model(valuation),
            examples=len(valuation.ids),
            size=valuation.bytes_on_disk,
            facts={"Queries": f"{found.count:,}"} if found is not None else None,
            top=found.top if found is not None else None,
            query_losses=found.losses if found is not None else None,
            show=show or _showing(known),
            labels=_by(labels) or _labelling(known, classes),
            show_query=show_query or _showing(asked),
            query_labels=_by(query_labels) or _answering(asked, classes, found.classes if found else None),
            values=found.values if found is not None else None,
            ids=valuation.ids,
            self_influence=influence,
            losses=valuation.losses,
            outliers=outliers,
            trust=trust,
        ),
    )


class _Asked:
    """Queries, gone through batch by batch: the extremes of the first ones, and the mean score over all."""

    def __init__(self, valuation: Valuation, queries: Any, k: int, shown: int) -> None:
        self.batches = to_batches(queries, valuation._device())
        self.losses, self.classes = answers(valuation, self.batches)
        self.count = len(self.losses)
        tops: list[Top] = []
        self.values: Tensor | None = None
        k, left = min(k, len(valuation.ids)), shown
        for batch in self.batches:
            scores = valuation.score([batch.data])
            summed = scores.double().sum(0)
            self.values = summed if self.values is None else self.values.add_(summed)
            tops += [picked(scores[:left], valuation.ids, k)] if left > 0 else []
            left -= len(scores)
        self.values = self.values / self.count if self.values is not None else None
        self.top = _joined(tops, k)


def _joined(tops: Sequence[Top], k: int) -> Top:
    if not tops:
        nothing = torch.zeros(0, k)
        return Top(nothing.long(), nothing, nothing.long(), nothing)
    fields = ("helpful", "helpful_scores", "harmful", "harmful_scores")
    return Top(*(torch.cat([getattr(top, name) for top in tops]) for name in fields))


def _needed(valuation: Valuation, found: _Asked | None, influence: Tensor | None, outliers: int) -> list[int]:
    """The examples that a page shows, so that they are looked for in one pass."""
    parts: list[Any] = []
    if found is not None:
        parts += found.top.helpful.flatten(0, 1).tolist() + found.top.harmful.flatten(0, 1).tolist()
    if influence is not None:
        order = influence.nan_to_num(0.0).argsort(descending=True, stable=True)[:outliers]
        parts += valuation.ids[order].tolist()
    return sorted({example(one) for one in parts})


def _renumbered(valuation: Valuation, data: Any) -> bool:
    """Whether ids are the user's own, so that an example cannot be found by its place."""
    return data is None and valuation._data is not None and valuation._data.ids is not None


def _model(valuation: Valuation) -> str:
    count = sum(unit.size for unit in valuation.units)
    return f"{type(valuation.model).__name__}, {count:,} parameters in {plural(len(valuation.units), 'layer')}"


def _by(labels: Show | Sequence[Any] | None) -> Show | None:
    if labels is None or callable(labels):
        return labels
    return lambda place: labels[place] if 0 <= place < len(labels) else None


def _showing(known: Examples | None) -> Show | None:
    return None if known is None else lambda place: first(known[place])


def _labelling(known: Examples | None, classes: Sequence[str] | None) -> Callable[[int], Any] | None:
    return None if known is None else lambda place: named(classes, target(known[place]))


def _answering(known: Examples | None, classes: Sequence[str] | None, predicted: Tensor | None) -> Show | None:
    def said(place: int) -> str | None:
        label = named(classes, target(known[place])) if known is not None else None
        guess = named(classes, int(predicted[place])) if predicted is not None else None
        if guess is None or label == guess:
            return label
        return f"{label}, seen as {guess}" if label is not None else f"seen as {guess}"

    return said
