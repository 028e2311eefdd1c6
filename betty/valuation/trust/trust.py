"""What a check of a valuation found: a table, sentences and JSON."""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from betty.valuation.trust.brittleness import Curve
from betty.valuation.trust.datamodeling import Datamodeling
from betty.valuation.trust.exact import Agreement
from betty.valuation.trust.measures import mean, strength

FORMAT = 1
"""Version of the JSON document; it grows when a key changes its meaning or goes."""
WIDTH = 100
FACTOR = 2.0
"""From where on scores are said to be of another size than the reference's, and a removal to do more than chance."""


@dataclass(frozen=True, eq=False)
class Trust:
    """How far the scores of a valuation can be trusted.

    Args:
        method: The method with its options, as people read it.
        examples: How many were valued.
        queries: How many were asked about.
        parameters: Of the model that take part.
        reference: What the exact scores are of; empty without them.
        exact: Agreement with exact scores.
        datamodeling: The linear datamodeling score.
        curve: What leaving out the most helpful examples does.
        trainings: How often the model was trained again.
        notes: What could not be done, and why.
    """

    method: str
    examples: int
    queries: int
    parameters: int
    reference: str = ""
    exact: Agreement | None = None
    datamodeling: Datamodeling | None = None
    curve: Curve | None = None
    trainings: int = 0
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """What was found, in sentences."""
        return tuple(_sentences(self))

    def record(self) -> dict[str, Any]:
        """Everything as JSON holds it; a correlation that does not exist is null."""
        found = {
            "format": FORMAT,
            "method": self.method,
            "examples": self.examples,
            "queries": self.queries,
            "parameters": self.parameters,
            "trainings": self.trainings,
            "exact": None if self.exact is None else {"reference": self.reference, **self.exact.record()},
            "datamodeling": None if self.datamodeling is None else self.datamodeling.record(),
            "curve": None if self.curve is None else self.curve.record(),
            "words": list(self.words),
            "notes": list(self.notes),
        }
        return {key: _finite(value) for key, value in found.items()}

    def to_json(self) -> str:
        return json.dumps(self.record(), indent=2, ensure_ascii=False, allow_nan=False)

    def table(self) -> RenderableType:
        """For a console of rich."""
        return Group(*_parts(self))

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False)
        with console.capture() as captured:
            console.print(self.table())
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


# Tables


def _parts(trust: Trust) -> Iterator[RenderableType]:
    facts = f"{trust.examples:,} examples · {trust.queries:,} queries · {trust.parameters:,} parameters"
    yield Text.assemble(("values by ", "bold"), (trust.method, "bold"), "   " + facts)
    if trust.exact is not None:
        yield ""
        yield _exact(trust.exact, trust.reference)
    if trust.datamodeling is not None:
        yield ""
        yield _datamodeling(trust.datamodeling)
    if trust.curve is not None:
        yield ""
        yield _curve(trust.curve)
    yield ""
    yield from (Text(sentence) for sentence in trust.words)
    yield from (Text(f"note: {note}", style="dim") for note in trust.notes)


def _exact(found: Agreement, reference: str) -> Table:
    table = Table(f"with {reference}", "mean", "worst query", box=None, header_style="bold", pad_edge=False)
    kinds = (
        ("rank correlation (Spearman)", found.spearman),
        ("correlation (Pearson)", found.pearson),
        ("cosine", found.cosine),
        ("same sign", found.sign),
    )
    for name, values in kinds:
        known = values[~values.isnan()]
        table.add_row(name, _number(mean(values)), _number(float(known.min()) if len(known) else math.nan))
    table.add_row("size, as a multiple", _number(mean(found.scale)), "")
    return table


def _datamodeling(found: Datamodeling) -> Table:
    title = f"with {found.subsets} trainings on a half"
    table = Table(title, "mean", f"{found.level:.0%} interval", box=None, header_style="bold", pad_edge=False)
    interval = f"{_number(found.low)} to {_number(found.high)}"
    table.add_row("linear datamodeling score", _number(found.score), interval)
    if found.ceiling is not None:
        table.add_row(f"  the most possible, by {found.seeds} seeds", _number(found.ceiling), "")
    return table


def _curve(found: Curve) -> Table:
    title = f"left out, {len(found.queries)} {'query' if len(found.queries) == 1 else 'queries'}"
    heads = ["change of loss", "of random ones"]
    heads += ["flipped", "by random ones"] if found.flipped is not None else []
    table = Table(title, *heads, box=None, header_style="bold", pad_edge=False)
    for row in found.record():
        cells = [_signed(row["helpful"]), _signed(row["random"])]
        if found.flipped is not None:
            cells += [_share(row["flipped"]), _share(row["random_flipped"])]
        table.add_row(f"the {row['removed']:,} most helpful", *cells)
    return table


# Sentences


def _sentences(trust: Trust) -> Iterator[str]:
    if trust.exact is not None:
        yield _said_of_exact(trust.exact, trust.reference)
    if trust.datamodeling is not None:
        yield _said_of_datamodeling(trust.datamodeling)
    if trust.curve is not None:
        yield _said_of_curve(trust.curve)
    if trust.exact is None and trust.datamodeling is None and trust.curve is None:
        yield "Nothing was compared: these scores are not checked."


def _said_of_exact(found: Agreement, reference: str) -> str:
    correlation, scale = mean(found.spearman), mean(found.scale)
    said = f"{_sentence(correlation)} correlation with {reference} was found ({_number(correlation)})"
    if not math.isfinite(scale) or scale <= 0:
        return f"{said}."
    if 1 / FACTOR <= scale <= FACTOR:
        return f"{said}; the scores are of its size."
    other = f"{scale:.3g} times as large" if scale > 1 else f"{1 / scale:.3g} times smaller"
    return f"{said}; the scores are {other}, so read them as an order."


def _said_of_datamodeling(found: Datamodeling) -> str:
    score = found.score
    if math.isnan(score):
        return "Losses of queries do not differ between trainings: no correlation can be told."
    if found.low <= 0 <= found.high:
        return (
            f"No correlation with training again was found: {_number(score)} is within chance "
            f"({_number(found.low)} to {_number(found.high)}, {found.subsets} trainings)."
        )
    said = f"{_sentence(score)} correlation with training again on halves of the data was found ({_number(score)}"
    said += f", {found.level:.0%} between {_number(found.low)} and {_number(found.high)})"
    if found.ceiling is None:
        return f"{said}."
    return f"{said}; of {_number(found.ceiling)} that could be reached, as trainings differ by their seeds."


def _said_of_curve(found: Curve) -> str:
    row = found.record()[-1]
    helpful, chance = float(row["helpful"] or 0), float(row["random"] or 0)
    said = f"Without its {row['removed']:,} most helpful examples a query's loss changes by {_signed(helpful)}, "
    said += f"without as many random ones by {_signed(chance)}"
    if helpful > FACTOR * abs(chance):
        return f"{said}: they do matter to it."
    return f"{said}: they matter {'little' if helpful > chance else 'no'} more than others."


def _sentence(correlation: float) -> str:
    word = strength(correlation)
    return word[0].upper() + word[1:]


# Numbers


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"


def _signed(value: float | None) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{value:+.3g}"


def _share(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.0%}"


def _finite(value: Any) -> Any:
    """The value as JSON holds it, which knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
