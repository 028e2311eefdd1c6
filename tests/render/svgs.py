"""Reading SVG back: elements by class, polygons, boxes, and points along paths."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from betty.render.tree import tag

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def groups(root: ET.Element, *kinds: str) -> list[ET.Element]:
    """Groups that have all of the classes ``kinds``, legend aside unless it is asked for."""
    found = [group for group in root.iter(tag("g")) if set(kinds) <= set(group.get("class", "").split())]
    return [group for group in found if "legend" in kinds or "legend" not in group.get("class", "").split()]


def texts(element: ET.Element) -> list[str]:
    return [(text.text or "").strip() for text in element.iter(tag("text"))]


def title(element: ET.Element) -> str:
    return element.findtext(tag("title"), "")


def box(rect: ET.Element) -> Box:
    x, y, wide, high = (float(rect.get(key, "nan")) for key in ("x", "y", "width", "height"))
    return x, y, x + wide, y + high


def points(path: str, pieces: int = 24) -> Iterator[tuple[float, float]]:
    """Points along a path of absolute ``M``, ``V``, ``H`` and ``C`` commands."""
    x = y = 0.0
    for command, body in re.findall(r"([MVHC])([^MVHC]*)", path):
        numbers = [float(number) for number in body.split()]
        start = (x, y)
        if command == "C":
            x, y = numbers[4:]
        elif command == "M":
            x, y = numbers
            start = (x, y)
        else:
            x, y = (numbers[0], y) if command == "H" else (x, numbers[0])
        control = (
            [start, *zip(numbers[0::2], numbers[1::2], strict=True)]
            if command == "C"
            else [start, start, (x, y), (x, y)]
        )
        yield from (_bezier(control, step / pieces) for step in range(pieces + 1))


def _bezier(control: list[tuple[float, float]], t: float) -> tuple[float, float]:
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
    x, y = (sum(weight * point[axis] for weight, point in zip(weights, control, strict=True)) for axis in (0, 1))
    return x, y


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(point: tuple[float, float], region: Box, border: float = 0.5) -> bool:
    left, top, right, bottom = region
    return left + border < point[0] < right - border and top + border < point[1] < bottom - border
