"""Charts as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import torch
from torch import Tensor

from betty.valuation.report.axes import Scale, label, linear, logarithmic, stretched

WIDTH, HEIGHT = 520, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 44
BINS = 45
MOST = 1500
"""Points that are drawn."""


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name, its class in the style sheet, and the heights of its points."""

    name: str
    kind: str
    heights: Sequence[float]


def histogram(values: Tensor, name: str) -> str:
    """How many examples have which value; those below zero help, those above harm.

    The axis leaves the outermost half per cent on each side out, and the text says how many those are.
    """
    found = values.double()
    ends = torch.tensor([0.005, 0.995], dtype=torch.float64)
    low, high = (float(one) for one in _thinned(found, 1_000_000).quantile(ends))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    inside = found[(found >= low) & (found <= high)]
    counts = torch.histc(inside, BINS, low, high).tolist()
    across = Scale(low, high, LEFT, WIDTH - RIGHT)
    up = Scale(0, max(*counts, 1) * 1.05, HEIGHT - BOTTOM, TOP)
    bars, step = [], (high - low) / BINS
    for place, count in enumerate(counts):
        start, end = low + place * step, low + (place + 1) * step
        kind = "helpful" if start + end < 0 else "harmful"
        said = f"{int(count):,} examples from {label(start)} to {label(end)}"
        x, y = across(start), up(count)
        box = f'x="{x + 0.5:.2f}" y="{y}" width="{max(across(end) - x - 1, 0.5):.2f}" height="{up(0) - y:.2f}"'
        bars.append(f'<rect class="fill {kind}" {box}><title>{escape(said)}</title></rect>')
    zero = [_rule(across(0))] if low < 0 < high else []
    beyond = len(found) - len(inside)
    note = f"{beyond:,} of {len(found):,} lie beyond the axis" if beyond else ""
    return _chart([*_axes(across, up, name, "examples"), *bars, *zero], f"Histogram of {name}", note)


def scatter(x: Tensor, y: Tensor, ids: Sequence[str], marked: Sequence[int], names: tuple[str, str]) -> str:
    """A point for each example, some of them marked.

    Args:
        x: Numbers across, ``[examples]``.
        y: Numbers upwards.
        ids: Of the examples, as text.
        marked: Places of those that stand out.
        names: Of the axes.
    """
    first, second = x.double().tolist(), y.double().tolist()
    across = _scale(first, LEFT, WIDTH - RIGHT)
    up = _scale(second, HEIGHT - BOTTOM, TOP)
    special = set(marked)
    chosen = [place for place in _sample(len(first)) if place not in special]
    points = [_point(across(first[at]), up(second[at]), ids[at], "plain") for at in chosen]
    points += [_point(across(first[at]), up(second[at]), ids[at], "marked") for at in marked]
    for place in list(marked)[:5]:
        left = across(first[place]) > WIDTH - 90
        at = across(first[place]) + (-7 if left else 7)
        side = ' text-anchor="end"' if left else ""
        points.append(f'<text class="name" x="{at}" y="{up(second[place]) + 4}"{side}>{escape(ids[place])}</text>')
    drawn = len(chosen) + len(special)
    note = f"{drawn:,} of {len(first):,} examples are drawn" if drawn < len(first) else ""
    return _chart([*_axes(across, up, *names), *points], f"{names[1]} against {names[0]}", note)


def lines(places: Sequence[float], drawn: Sequence[Line], names: tuple[str, str], *, share: bool = False) -> str:
    """Lines over the same places, each named at its end."""
    across = Scale(0, max(places), LEFT, WIDTH - RIGHT - 110)
    heights = [height for line in drawn for height in line.heights]
    up = Scale(0, 1.02, HEIGHT - BOTTOM, TOP) if share else linear(heights, HEIGHT - BOTTOM, TOP, zero=True)
    parts = _axes(across, up, *names, percent=share)
    ends = _apart([up(line.heights[-1]) for line in drawn])
    for line, end in zip(drawn, ends, strict=True):
        # Nothing is changed where nothing is removed.
        spots = [(across(0), up(0)), *((across(at), up(high)) for at, high in zip(places, line.heights, strict=True))]
        path = " ".join(f"{x},{y}" for x, y in spots)
        parts.append(f'<polyline class="line {line.kind}" points="{path}"/>')
        for (x, y), at, high in zip(spots[1:], places, line.heights, strict=True):
            said = f"{line.name}, {int(at):,} left out: {f'{high:.0%}' if share else label(high)}"
            parts.append(
                f'<circle class="fill {line.kind}" cx="{x}" cy="{y}" r="4"><title>{escape(said)}</title></circle>'
            )
        parts.append(f'<text class="name" x="{spots[-1][0] + 10}" y="{end + 4:.1f}">{escape(line.name)}</text>')
    return _chart(parts, f"{names[1]} against {names[0]}")


def _scale(values: Sequence[float], start: float, end: float) -> Scale:
    return logarithmic(values, start, end) if stretched(values) else linear(values, start, end)


def _axes(across: Scale, up: Scale, bottom: str, side: str, *, percent: bool = False) -> list[str]:
    parts = []
    for tick in up.ticks(4):
        y, said = up(tick), f"{tick:.0%}" if percent else label(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{said}</text>')
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    for tick in across.ticks(5):
        x = across(tick)
        parts.append(f'<text class="tick" x="{x}" y="{base + 17}" text-anchor="middle">{label(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    wide = " (logarithmic)" if across.log else ""
    high = " (logarithmic)" if up.log else ""
    parts.append(f'<text class="of" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(bottom + wide)}</text>')
    turned = f'x="{-(TOP + base) / 2}" y="12" transform="rotate(-90)" text-anchor="middle"'
    return [*parts, f'<text class="of" {turned}>{escape(side + high)}</text>']


def _chart(parts: Sequence[str], title: str, note: str = "") -> str:
    body = "".join(parts)
    below = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    frame = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">{body}</svg>'
    return f'<figure class="chart">{frame}{below}</figure>'


def _point(x: float, y: float, name: str, kind: str) -> str:
    size = 4.5 if kind == "marked" else 2.5
    return f'<circle class="point {kind}" cx="{x}" cy="{y}" r="{size}"><title>{escape(name)}</title></circle>'


def _rule(x: float) -> str:
    return f'<line class="zero" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'


def _sample(count: int) -> list[int]:
    if count <= MOST:
        return list(range(count))
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(0))[:MOST].tolist())


def _thinned(values: Tensor, most: int) -> Tensor:
    """Every so many-th value: quantiles take at most 16 million."""
    return values[:: -(-len(values) // most)]


def _apart(places: Sequence[float], least: float = 15) -> list[float]:
    """Places of names, moved so that none is written over another."""
    order = sorted(range(len(places)), key=lambda at: places[at])
    found = list(places)
    for before, after in pairwise(order):
        found[after] = max(found[after], found[before] + least)
    return found
