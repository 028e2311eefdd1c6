"""Methods put into the file of a spec; every other character of it stays."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from betty.backends.torch.check import Check
from betty.checking.spelling import to_flow, to_value
from betty.ir.diagnostics import BettyError, SpecError
from betty.ir.methods import Method
from betty.spec.load import load

Pair = tuple[str, str]
"""Upper and lower."""
BY_HAND = "write the methods by hand"


@dataclass(frozen=True)
class Written:
    """What was written: the file, and the edges whose line has changed with their new method."""

    path: Path
    changed: Mapping[str, str]


def write_methods(check: Check, path: str | Path) -> Written:
    """Put the recommended methods into the spec at ``path``, comments and layout kept.

    The file is replaced at once or not at all. Edges whose recommendation is the method that they have are left.

    Raises:
        BettyError: The file cannot be written, or is put together in a way that does not let one method be changed.
    """
    file = Path(path).resolve()  # a link stays a link
    wanted = {
        (edge.upper, edge.lower): edge.recommendation.method
        for edge in check.edges
        if edge.recommendation is not None and edge.recommendation.change
    }
    if wanted:
        before = _read(file)
        after = with_methods(before, wanted)
        _verify(file, after, wanted)
        _replace(file, after)
    return Written(Path(path), {f"{up} -> {low}": to_flow(to_value(one)) for (up, low), one in wanted.items()})


def with_methods(text: str, wanted: Mapping[Pair, Method]) -> str:
    """``text`` with the methods of some edges replaced or added.

    Raises:
        BettyError: An edge is not there, or is an alias of something else.
    """
    edits = [_edit(text, _edge(text, pair), to_flow(to_value(method))) for pair, method in wanted.items()]
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


Edit = tuple[int, int, str]
"""Put a text in the place of the characters from one position up to another."""


def _edge(text: str, pair: Pair) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    edges = _value(root, "edges")
    for edge in edges.value if isinstance(edges, yaml.SequenceNode) else []:
        ends = tuple(getattr(_value(edge, key), "value", None) for key in ("upper", "lower"))
        if ends == pair and isinstance(edge, yaml.MappingNode):
            return edge
    raise BettyError(f"the file has no edge {pair[0]} -> {pair[1]} of its own; {BY_HAND}")


def _value(node: yaml.Node | None, name: str) -> yaml.Node | None:
    pairs: Sequence[tuple[yaml.Node, yaml.Node]] = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def _edit(text: str, edge: yaml.MappingNode, new: str) -> Edit:
    for key, value in edge.value:
        if key.value == "method":
            return _exchange(text, key, value, new)
    return _addition(text, edge, new)


def _exchange(text: str, key: yaml.Node, value: yaml.Node, new: str) -> Edit:
    after = key.end_mark.index
    if value.start_mark.index < after:  # an alias: its node stands where the anchor is
        found = re.compile(r"\s*:\s*(\*[^\s,\[\]{}]+)").match(text, after)
        if found is None:
            raise BettyError(f"the method at line {key.start_mark.line + 1} is an alias; {BY_HAND}")
        return found.start(1), found.end(1), new
    start, end = value.start_mark.index, _end(value)
    if text[start:end].startswith("&"):
        raise BettyError(f"the method at line {key.start_mark.line + 1} is an anchor that others may use; {BY_HAND}")
    if start == end or (isinstance(value, yaml.MappingNode) and not value.flow_style):
        colon = text.index(":", after) + 1  # an empty value, or one on lines of its own
        return colon, max(colon, end), " " + new
    return start, end, new


def _addition(text: str, edge: yaml.MappingNode, new: str) -> Edit:
    end = _end(edge.value[-1][1])
    if edge.flow_style:
        return end, end, f", method: {new}"
    line_end = re.compile(r"[^\r\n]*").match(text, end)
    assert line_end is not None
    newline = "\r\n" if "\r\n" in text else "\n"
    return line_end.end(), line_end.end(), f"{newline}{' ' * edge.value[0][0].start_mark.column}method: {new}"


def _end(node: yaml.Node) -> int:
    """Where the text of a node ends; a block collection itself ends only where the next thing begins."""
    if isinstance(node, yaml.ScalarNode) or getattr(node, "flow_style", False) or not node.value:
        end: int = node.end_mark.index
        return end
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BettyError(f"{file} cannot be read: {error}") from None


def _verify(file: Path, text: str, wanted: Mapping[Pair, Method]) -> None:
    """The new text means what the old one meant, but for the methods.

    Raises:
        BettyError: It does not.
    """
    old = load(file).spec
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        copy.write_bytes(text.encode())
        try:
            new = load(copy).spec
        except SpecError as error:
            raise BettyError(f"{file} would no longer be a spec; {BY_HAND}: {error}") from None
    for one, other in zip(old.edges, new.edges, strict=True):
        expected = wanted.get((one.upper, one.lower), one.to_method())
        if other.to_method() != expected or other.model_copy(update={"method": one.method}) != one:
            raise BettyError(f"{file} does not let the method of {one.upper} -> {one.lower} be changed; {BY_HAND}")
    if new.model_copy(update={"edges": old.edges}) != old:
        raise BettyError(f"{file} does not let a method be changed alone; {BY_HAND}")


def _replace(file: Path, text: str) -> None:
    """A new file beside the old one, on disk, then in its place."""
    try:
        with tempfile.NamedTemporaryFile("wb", dir=file.parent, prefix=f".{file.name}.", delete=False) as new:
            temporary = Path(new.name)
            try:
                new.write(text.encode())
                new.flush()
                os.fsync(new.fileno())
                shutil.copymode(file, temporary)
                temporary.replace(file)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise BettyError(f"{file} cannot be written: {error.strerror or error}") from None
