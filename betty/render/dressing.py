"""From the SVG that Graphviz writes to ours: our style sheet, plain hover texts, no background."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from betty.ir.graph import Graph
from betty.render import tree
from betty.render.style import SCALE

DRAWN = {tree.tag(name) for name in ("path", "polygon", "polyline", "ellipse", "text")}
XLINK_TITLE = "{http://www.w3.org/1999/xlink}title"


def dressed(text: str, graph: Graph) -> str:
    """``text``, what ``dot -Tsvg`` makes of ``graph``, with the classes and styles of the built-in drawings.

    Raises:
        xml.etree.ElementTree.ParseError: ``text`` is not XML.
    """
    root = ET.fromstring(text)
    for side in ("width", "height"):
        # A point counts as one unit, so that text is as large as in the built-in drawings.
        root.set(side, f"{float(root.get(side, '0').removesuffix('pt')) * SCALE:.0f}")
    whole = root.find(tree.tag("g"))
    if whole is not None:
        _undress(whole)
        for group in whole.findall(tree.tag("g")):
            _simplify(group)
    tree.dress(root, graph)
    return tree.to_text(root)


def _undress(whole: ET.Element) -> None:
    """Remove the background and the name of the whole drawing; its caption becomes the heading."""
    del whole.attrib["id"]  # identifiers would clash where a page shows several drawings
    for name in ("title", "polygon"):
        for child in whole.findall(tree.tag(name)):
            whole.remove(child)
    for caption in whole.findall(tree.tag("text")):
        caption.set("class", "heading")


def _simplify(group: ET.Element) -> None:
    """Replace the links around shapes, which carry the hover text, by one title."""
    kinds = list(dict.fromkeys(group.get("class", "").split()))
    tooltip = next((link.get(XLINK_TITLE, "") for link in group.iter(tree.tag("a"))), "")
    shapes = [element for element in group.iter() if element.tag in DRAWN]
    group.clear()
    if "legend" in kinds:
        kinds = ["legend", *(kind for kind in kinds if kind in {"down", "up"})]
    group.set("class", " ".join(kinds))
    if tooltip and "legend" not in kinds:
        tree.add(group, "title", {}, tooltip)
    group.extend(shapes)
    if "node" in kinds:
        _centre(shapes)


def _centre(shapes: list[ET.Element]) -> None:
    """Graphviz sets bold and small lines flush left by its own font's widths; a browser's may differ."""
    outline = next((shape for shape in shapes if shape.tag != tree.tag("text")), None)
    if outline is None:
        return
    numbers = re.findall(r"-?\d+(?:\.\d+)?", outline.get("d") or outline.get("points") or "")
    across = [float(number) for number in numbers[::2]]
    for shape in shapes:
        if shape.tag == tree.tag("text") and across:
            shape.set("x", f"{(min(across) + max(across)) / 2:.2f}")
            shape.set("text-anchor", "middle")
