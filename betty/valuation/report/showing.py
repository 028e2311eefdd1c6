"""An example as a page shows it: an image, a text, or a few numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

from betty.valuation.report.png import address, pixels, png

CHARACTERS = 600
"""Of a text, beyond which it is cut."""
NUMBERS = 12
"""Of a vector, beyond which they are left out."""
SQUARE = 64
"""Entries from which a flat vector of a square number is taken for an image."""
SMALL = 48
"""Pixels of a side up to which an image is drawn larger, pixel by pixel."""


def shown(value: Any) -> str:
    """HTML of a value, everything in it escaped.

    Tensors (and arrays) ``[h, w]``, ``[c, h, w]``, ``[h, w, c]`` and flat squares are images, as are images of PIL;
    strings are texts; other numbers and mappings are short tables; of other sequences the first part is shown.
    """
    if value is None:
        return '<span class="none">not shown</span>'
    if isinstance(value, str | bytes):
        return text(value.decode(errors="replace") if isinstance(value, bytes) else value)
    if hasattr(value, "save") and hasattr(value, "mode"):
        return _picture(value)
    if not isinstance(value, Tensor) and hasattr(value, "__array__"):
        value = torch.as_tensor(value)
    if isinstance(value, Tensor):
        image = as_image(value)
        return numbers(value) if image is None else _image(image)
    if isinstance(value, Mapping):
        return _table([(str(key), _cell(part)) for key, part in list(value.items())[:NUMBERS]])
    if isinstance(value, Sequence) and value:
        plain = all(isinstance(part, int | float) for part in value)
        return numbers(torch.tensor(value)) if plain else shown(value[0])
    return text(str(value))


def text(value: str) -> str:
    """A text, cut where it is long."""
    cut = value if len(value) <= CHARACTERS else value[: CHARACTERS - 1].rstrip() + "…"
    return f'<p class="text">{escape(cut)}</p>'


def numbers(value: Tensor) -> str:
    """The first numbers of a tensor."""
    flat = value.detach().flatten()
    rows = [(str(place), _number(one)) for place, one in enumerate(flat[:NUMBERS].tolist())]
    rest = flat.numel() - NUMBERS
    return _table(rows, f"and {rest:,} more" if rest > 0 else "")


def as_image(value: Tensor) -> Tensor | None:
    """A tensor as ``[channels, height, width]`` with 1, 3 or 4 channels; ``None`` where it is no image."""
    if value.is_complex() or not value.numel():
        return None
    if value.dim() == 3 and value.shape[0] in (1, 3, 4) and min(value.shape[1:]) > 1:
        return value
    if value.dim() == 3 and value.shape[-1] in (1, 3, 4):
        return value.movedim(-1, 0)
    if value.dim() == 2 and min(value.shape) > 2:
        return value[None]
    if value.dim() == 1 and value.is_floating_point():
        return _unrolled(value)
    return None


def _unrolled(value: Tensor) -> Tensor | None:
    for channels in (1, 3):
        side = math.isqrt(len(value) // channels)
        if side * side * channels == len(value) and side * side >= SQUARE:
            return value.view(channels, side, side)
    return None


def _image(image: Tensor) -> str:
    found = pixels(image)
    kind = "image small" if max(found.shape[:2]) <= SMALL else "image"
    return _tag(address(png(found)), kind)


def _picture(value: Any) -> str:
    """An image of PIL, by its own means."""
    small = value.copy()
    small.thumbnail((160, 160))
    file = io.BytesIO()
    (small if small.mode in ("L", "RGB", "RGBA") else small.convert("RGB")).save(file, format="PNG")
    return _tag(address(file.getvalue()), "image small" if max(small.size) <= SMALL else "image")


def _tag(source: str, kind: str) -> str:
    return f'<img class="{kind}" src="{source}" alt="">'


def _table(rows: Sequence[tuple[str, str]], rest: str = "") -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    more = f'<tr><td class="rest" colspan="2">{escape(rest)}</td></tr>' if rest else ""
    return f'<table class="numbers">{cells}{more}</table>'


def _cell(value: Any) -> str:
    if isinstance(value, Tensor):
        return _number(value.item()) if value.numel() == 1 else f"{list(value.shape)}"
    return _number(value) if isinstance(value, int | float) else str(value)[:80]


def _number(value: float | int | bool) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
