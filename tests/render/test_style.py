"""Colours that can be read: contrast as WCAG 2.1 defines it, at least 4.5 for text."""

from __future__ import annotations

import pytest

from betty.render.style import DARK, LIGHT, Palette

PAGES = {"white": "#ffffff", "paper": "#f8f8f8", "black": "#000000", "notebook": "#111111", "editor": "#1e1e1e"}


@pytest.mark.parametrize(
    ("palette", "page"),
    [(LIGHT, "white"), (LIGHT, "paper"), (DARK, "black"), (DARK, "notebook"), (DARK, "editor")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_words_and_lines_stand_out_from_the_page(palette: Palette, page: str) -> None:
    for colour in (palette.ink, palette.muted, palette.down, palette.up):
        assert contrast(colour, PAGES[page]) >= 4.5
    assert contrast(palette.line, PAGES[page]) >= 3.0


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_names_stand_out_from_their_box(palette: Palette) -> None:
    assert contrast(palette.ink, palette.fill) >= 7.0


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
