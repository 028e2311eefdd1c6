"""SVG as a tree of elements, which escapes every text by itself, and what all our SVG has in common."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping

from betty.ir.graph import Graph
from betty.render.style import ROOT, css
from betty.render.words import headline

SVG = "http://www.w3.org/2000/svg"

ET.register_namespace("", SVG)


def tag(name: str) -> str:
    """``{namespace}name``, as ElementTree writes it."""
    return f"{{{SVG}}}{name}"


Attribute = str | float


def add(
    parent: ET.Element, name: str, attributes: Mapping[str, Attribute], text: str = "", kinds: str = ""
) -> ET.Element:
    """A new element in ``parent``, with ``kinds`` as its class."""
    named = {**({"class": kinds} if kinds else {}), **{key: _written(value) for key, value in attributes.items()}}
    element = ET.SubElement(parent, tag(name), named)
    element.text = text or None
    return element


def _written(value: Attribute) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def dress(root: ET.Element, graph: Graph) -> None:
    """Give the root of a drawing its class, style sheet, title, and the name that screen readers speak."""
    root.set("class", ROOT)
    root.set("role", "img")
    root.set("aria-label", headline(graph))
    style, title = ET.Element(tag("style")), ET.Element(tag("title"))
    style.text, title.text = css(), headline(graph)
    root.insert(0, style)
    root.insert(0, title)


def to_text(root: ET.Element) -> str:
    return ET.tostring(root, encoding="unicode") + "\n"
