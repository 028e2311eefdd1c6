"""Colours and fonts of every drawing, in light and dark.

Flows differ in their line (dashed or solid) and in their arrowhead (hollow or filled) as well as in colour, so that a
print in black and white loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

FONTS = 'Helvetica, Arial, "Liberation Sans", "DejaVu Sans", sans-serif'
ROOT = "betty-graph"
DASHES = "6 4"
SCALE = 1.2
"""Pixels of a page to one unit of a drawing, which makes its small text as large as a page's."""


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours by what they are for; ``fill`` and ``line`` are those of a node."""

    ink: str
    muted: str
    fill: str
    line: str
    down: str
    up: str


LIGHT = Palette(ink="#1b2733", muted="#4a5866", fill="#f1f5f9", line="#475569", down="#a34700", up="#0b5cad")
DARK = Palette(ink="#e8eef4", muted="#b3bfcc", fill="#1e2a38", line="#94a3b8", down="#ffb26b", up="#8ec5ff")

# Pages with a switch of their own mark it on an element around the drawing; it goes before the system's preference.
LIGHT_HOSTS = ('[data-theme="light"]', '[data-jp-theme-light="true"]', ".vscode-light")
DARK_HOSTS = ('[data-theme="dark"]', '[data-jp-theme-light="false"]', ".vscode-dark")


def css() -> str:
    """The style sheet of an SVG, all of it below the root's class: it stays harmless inside a page.

    Colours are written out rather than kept in CSS variables, which programs that convert SVG often do not know.
    """
    here = f".{ROOT}"
    return "\n".join(
        (
            f"{here}{{background:transparent;max-width:100%;height:auto}}",
            f"{here} text{{font-family:{FONTS}}}",
            f"{here} .down path{{stroke-dasharray:{DASHES}}}",
            _colours(LIGHT, (here,)),
            f"@media (prefers-color-scheme: dark){{\n{_colours(DARK, (here,))}\n}}",
            _colours(LIGHT, tuple(f"{host} {here}" for host in LIGHT_HOSTS)),
            _colours(DARK, tuple(f"{host} {here}" for host in DARK_HOSTS)),
        )
    )


def _colours(palette: Palette, scopes: tuple[str, ...]) -> str:
    rules = (
        ((" text",), f"fill:{palette.muted}"),
        ((" .node text", " .heading"), f"fill:{palette.ink}"),
        ((" .node rect", " .node path", " .node polygon"), f"fill:{palette.fill};stroke:{palette.line}"),
        ((" .down path", " .up path"), "fill:none"),
        ((" .down path", " .down polygon"), f"stroke:{palette.down}"),
        ((" .down polygon",), "fill:none"),
        ((" .down text",), f"fill:{palette.down}"),
        ((" .up path", " .up polygon"), f"stroke:{palette.up}"),
        ((" .up polygon", " .up text"), f"fill:{palette.up}"),
        ((" .legend text",), f"fill:{palette.muted}"),
    )
    return "\n".join(f"{_selectors(scopes, parts)}{{{body}}}" for parts, body in rules)


def _selectors(scopes: tuple[str, ...], parts: tuple[str, ...]) -> str:
    return ",".join(scope + part for scope in scopes for part in parts)
