"""Drawings of a compiled graph: Graphviz and Mermaid source, SVG, PNG and PDF.

The functions that draw return text; only :func:`render` writes a file.
"""

from __future__ import annotations

from betty.render.dot import to_dot
from betty.render.errors import RenderError
from betty.render.files import Rendered, render, svg
from betty.render.mermaid import to_mermaid
from betty.render.picture import to_svg

__all__ = ["RenderError", "Rendered", "render", "svg", "to_dot", "to_mermaid", "to_svg"]
