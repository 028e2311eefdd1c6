"""A report as one file: no address in it points anywhere else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from betty.ir.diagnostics import BettyError
from betty.ir.quantities import bytes_text
from betty.runfolder import write_atomically
from betty.valuation.report.charts import Line, histogram, lines, scatter
from betty.valuation.report.data import ReportData, Show, example, name
from betty.valuation.report.showing import shown
from betty.valuation.report.style import STYLE
from betty.valuation.report.trusted import comparisons


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write a report as an HTML file, at once when it is complete.

    Raises:
        BettyError: It cannot be written there.
    """
    target, content = Path(path), page(data)
    if not target.parent.is_dir():
        raise BettyError(f"report {target}: there is no folder {str(target.parent)!r}")
    try:
        write_atomically(target, lambda part: part.write_text(content, encoding="utf-8"))
    except OSError as error:
        raise BettyError(f"report {target}: cannot be written ({error.strerror})") from None
    return target


def page(data: ReportData) -> str:
    """The whole document."""
    title = escape(data.title)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join((*_head(data), *_trust(data), *_queries(data), *_values(data), *_outliers(data), *_removals(data)))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<title>{title}</title><style>{STYLE}</style></head>\n'
        f"<body><main>\n{body}\n<footer>Written by betty. A score is the derivative of a query's loss by the weight of "
        "an example: negative scores help, positive ones harm.</footer>\n</main></body></html>\n"
    )


def _head(data: ReportData) -> Iterator[str]:
    facts = {"Method": data.method, "Model": data.model, "Examples": f"{data.examples:,}"}
    if data.size is not None:
        facts["Stored"] = bytes_text(data.size)
    facts |= dict(data.facts or {})
    told = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    yield f'<header><h1>{escape(data.title)}</h1><dl class="facts">{told}</dl></header>'


def _trust(data: ReportData) -> Iterator[str]:
    if data.trust is None:
        return
    words = "".join(f"<li>{escape(sentence)}</li>" for sentence in data.trust.words)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in data.trust.notes)
    yield "<h2>How far this can be trusted</h2>"
    yield f'<section class="card"><div class="pair"><ul class="words">{words}</ul>{comparisons(data.trust)}</div>'
    yield f"{notes}</section>"


# Queries


def _queries(data: ReportData) -> Iterator[str]:
    if data.top is None or not len(data.top):
        return
    yield "<h2>Queries</h2>"
    yield '<p class="lead">The training examples that lower each query\'s loss most, and those that raise it most.</p>'
    rows = list(data.top.rows())
    for place, row in enumerate(rows):
        most = max((abs(pair["score"]) for side in ("helpful", "harmful") for pair in row[side]), default=0.0)
        sides = "".join(
            f'<div class="side {side}"><h3>Most {side}</h3>{_examples(data, row[side], most)}</div>'
            for side in ("helpful", "harmful")
        )
        yield f'<section class="card query">{_asked(data, place)}<div class="sides">{sides}</div></section>'


def _asked(data: ReportData, place: int) -> str:
    what = _content(data.show_query, place)
    label = _label(data.query_labels, place)
    loss = "" if data.query_losses is None else f'<p class="score">loss {float(data.query_losses[place]):.3g}</p>'
    named = f"<p><b>{escape(label)}</b></p>" if label else ""
    return f'<div class="asked"><h3>Query {place}</h3>{what}{named}{loss}</div>'


def _examples(data: ReportData, pairs: Sequence[dict[str, Any]], most: float) -> str:
    return _row([_example(data, pair["id"], pair["score"], most, signed=True) for pair in pairs])


def _example(data: ReportData, found: Any, score: float, most: float, *, signed: bool) -> str:
    one = example(found)
    label = _label(data.labels, one)
    named = f"<b>{escape(label)}</b>" if label else ""
    number = f"{score:+.2g}" if signed else f"{score:.2g}"
    wide = 0.0 if not most > 0 or math.isnan(score) else 100 * min(1.0, abs(score) / most)
    said = f'<div class="caption"><span>{named or name(found)}</span><span class="score">{number}</span></div>'
    id_line = f'<div class="caption"><span>{name(found)}</span></div>' if named else ""
    bar = f'<div class="bar"><i style="width:{wide:.0f}%"></i></div>'
    return (
        f'<div class="example"><div class="what">{_content(data.show, one)}</div><div>{said}{bar}{id_line}</div></div>'
    )


def _row(examples: Sequence[str]) -> str:
    """Images side by side; texts and tables below one another."""
    images = any("<img" in one for one in examples) or not any('class="text"' in one for one in examples)
    return f'<div class="row{"" if images else " wide"}">{"".join(examples)}</div>'


def _content(show: Show | None, place: int) -> str:
    return "" if show is None else shown(show(place))


def _label(labels: Show | None, place: int) -> str:
    found = None if labels is None else labels(place)
    return "" if found is None else str(found)


# All examples


def _values(data: ReportData) -> Iterator[str]:
    if data.values is None or not len(data.values):
        return
    known = data.values[data.values.isfinite()]
    helping = int((known < 0).sum())
    yield "<h2>Values</h2>"
    yield (
        f'<p class="lead">What each training example does to the mean loss of the queries: {helping:,} of '
        f"{len(known):,} lower it, {len(known) - helping:,} do not.</p>"
    )
    yield f'<section class="card">{histogram(known, "value (mean score)")}</section>'


def _outliers(data: ReportData) -> Iterator[str]:
    own, losses, ids = data.self_influence, data.losses, data.ids
    if own is None or ids is None or not len(own):
        return
    known = own.nan_to_num(0.0)
    marked = known.argsort(descending=True, stable=True)[: data.outliers].tolist()
    names = [name(one) for one in ids.tolist()]
    yield "<h2>Self-influence</h2>"
    yield (
        '<p class="lead">How much an example lowers its own loss. Those at the top are learnt by heart rather than '
        "from others: wrong labels, rare or odd examples.</p>"
    )
    most = float(known.max())
    listed = _row([_example(data, ids[at].tolist(), float(own[at]), most, signed=False) for at in marked])
    chart = _cloud(known, losses, names, marked)
    side = f'<div class="side harmful"><h3>Highest self-influence</h3>{listed}</div>'
    yield f'<section class="card"><div class="pair">{chart}{side}</div></section>'


def _cloud(own: Tensor, losses: Tensor | None, names: Sequence[str], marked: Sequence[int]) -> str:
    if losses is None or not bool(losses.isfinite().all()):
        return histogram(own, "self-influence")
    return scatter(losses, own, names, marked, ("training loss", "self-influence"))


def _removals(data: ReportData) -> Iterator[str]:
    curve = data.removals
    if curve is None:
        return
    rows = curve.record()
    places, axis = [float(one) for one in curve.removed], "examples left out"
    kinds = (("most helpful", "helpful", "helpful"), ("random", "random", "random"))
    drawn = [Line(said, kind, [float(row[key] or 0) for row in rows]) for said, kind, key in kinds]
    charts = [lines(places, drawn, (axis, "change of the query's loss"))]
    if curve.flipped is not None:
        pairs = (("most helpful", "helpful", "flipped"), ("random", "random", "random_flipped"))
        drawn = [Line(said, kind, [float(row[key] or 0) for row in rows]) for said, kind, key in pairs]
        charts.append(lines(places, drawn, (axis, "queries whose class changed"), share=True))
    yield "<h2>Brittleness</h2>"
    yield (
        f'<p class="lead">What training again without a query\'s most helpful examples does to it, beside as many '
        f"random ones; mean over {len(curve.queries)} queries.</p>"
    )
    yield f'<section class="card"><div class="pair">{"".join(charts)}</div></section>'
