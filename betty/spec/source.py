"""YAML text as plain data, with the line and column of every key and value.

The text is read event by event, so that nothing is ever constructed but mappings, lists, text, numbers, true, false
and nothing. Scalars follow YAML 1.2: ``1e-3`` is a number, ``on`` and ``yes`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from betty.ir.diagnostics import Diagnostic, Field
from betty.spec.issues import kind_of
from betty.spec.positions import Place, Positions

LARGEST_TEXT = 16 * 2**20
LARGEST_TREE = 1_000_000
DEEPEST = 64
TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")} | {"!", None}
CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
INTEGER = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
FORBIDDEN = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class Read:
    """What a text holds: plain data, positions and the mistakes in its form."""

    data: Any
    positions: Positions
    diagnostics: tuple[Diagnostic, ...] = ()


@dataclass
class _Node:
    """A value of the text before anchors and merges are expanded."""

    line: int
    column: int
    value: Any = None
    pairs: list[tuple[_Node, _Node]] | None = None
    items: list[_Node] | None = None


class _Mark:
    """The line and column of an index into a text, from zero."""

    def __init__(self, text: str, index: int) -> None:
        self.line = text.count("\n", 0, index)
        self.column = index - text.rfind("\n", 0, index) - 1


class _UnreadableError(Exception):
    """The text cannot be read any further."""

    def __init__(self, code: str, message: str, mark: Any = None, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint
        self.line: int = mark.line if mark is not None else 0
        self.column: int = mark.column if mark is not None else 0


def read_yaml(text: str, file: str) -> Read:
    """Plain data of ``text``; ``file`` names it in places. Mistakes are returned, never raised."""
    try:
        return _Walk(file).read(_compose(text))
    except _UnreadableError as refused:
        where = f"{file}:{refused.line + 1}:{refused.column + 1}"
        wrong = Diagnostic(code=refused.code, field=(), message=refused.message, hint=refused.hint, where=where)
        return Read(None, Positions({(): Place((0, 0), f"{file}:1:1")}), (wrong,))


def scalar(text: str) -> Any:
    """The value of a plain YAML 1.2 scalar."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    try:
        if INTEGER.fullmatch(text):
            return int(text, 0) if text[:2] in {"0x", "0o"} else int(text)
        if NUMBER.fullmatch(text):
            return float(text)
    except ValueError:  # more digits than Python converts
        return text
    return float(text.replace(".", "", 1)) if SPECIAL.fullmatch(text) else text


def _compose(text: str) -> _Node:
    if len(text) > LARGEST_TEXT:
        raise _UnreadableError("too-large", f"the text is larger than {LARGEST_TEXT // 2**20} MiB")
    if found := FORBIDDEN.search(text):
        raise _UnreadableError(
            "bad-yaml", f"not YAML: character {found[0]!r} is not allowed", _Mark(text, found.start())
        )
    events = _events(text)
    builder = _Builder(events)
    root = None
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            raise _UnreadableError(
                "bad-yaml", "a second document begins here", event.start_mark, "keep one document a file"
            )
        if not isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent | yaml.DocumentEndEvent):
            if isinstance(event, yaml.StreamEndEvent):
                break
            root = builder.build(event, 0)
    if root is None or (root.value is None and root.pairs is None and root.items is None):
        raise _UnreadableError("empty", "the file is empty", hint="begin with 'name:' and 'problems:'")
    return root


def _events(text: str) -> Iterator[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        yield from yaml.parse(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        context = f" {error.context}" if error.context else ""
        mark = error.problem_mark or error.context_mark
        raise _UnreadableError(
            "bad-yaml", f"not YAML: {error.problem or 'unreadable'}{context}", mark, _yaml_hint(error)
        ) from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise _UnreadableError("bad-yaml", f"not YAML: {str(error).splitlines()[0]}") from None


def _yaml_hint(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    if "cannot start any token" in problem:
        return "indent with blanks, not tabs; put text with special characters in quotes"
    return "put text that contains ': ' in quotes" if "mapping values are not allowed" in problem else ""


@dataclass
class _Builder:
    """Nodes from events; an anchor is known from its end on, so that nothing can contain itself."""

    events: Iterator[Any]
    anchors: dict[str, _Node] = field(default_factory=dict)

    def build(self, event: Any, depth: int) -> _Node:
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                message = f"alias '*{event.anchor}' has no anchor '&{event.anchor}' that ends before it"
                raise _UnreadableError("bad-yaml", message, mark)
            known = self.anchors[event.anchor]
            return _Node(mark.line, mark.column, known.value, known.pairs, known.items)
        if depth > DEEPEST:
            raise _UnreadableError("too-large", f"more than {DEEPEST} levels of nesting", mark)
        if event.tag not in TAGS:
            raise _UnreadableError(
                "bad-tag", f"tag {event.tag!r} is not allowed", mark, "remove the tag: a spec is plain data"
            )
        node = _Node(mark.line, mark.column)
        self._fill(node, event, depth)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _fill(self, node: _Node, event: Any, depth: int) -> None:
        if isinstance(event, yaml.ScalarEvent):
            text = bool(event.style) or event.tag in {"!", "tag:yaml.org,2002:str"}
            node.value = event.value if text else scalar(event.value)
            return
        built = [self.build(inner, depth + 1) for inner in self._inside()]
        if isinstance(event, yaml.MappingStartEvent):
            node.pairs = list(zip(built[::2], built[1::2], strict=True))
        else:
            node.items = built

    def _inside(self) -> Iterator[Any]:
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                return
            yield event


@dataclass
class _Walk:
    """Data and positions from nodes; the number of places is limited, as nested aliases multiply."""

    file: str
    values: dict[Field, Place] = field(default_factory=dict)
    keys: dict[Field, Place] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def read(self, root: _Node) -> Read:
        data = self._data(root, (), root)
        return Read(data, Positions(self.values, self.keys), tuple(self.diagnostics))

    def _place(self, node: _Node) -> Place:
        return Place((node.line, node.column), f"{self.file}:{node.line + 1}:{node.column + 1}")

    def _data(self, node: _Node, path: Field, at: _Node) -> Any:
        if len(self.values) > LARGEST_TREE:
            raise _UnreadableError("too-large", f"more than {LARGEST_TREE} values once aliases are written out")
        self.values[path] = self._place(at)
        if node.pairs is not None:
            return self._mapping(node.pairs, path)
        if node.items is not None:
            return [self._data(item, (*path, index), item) for index, item in enumerate(node.items)]
        return node.value

    def _mapping(self, pairs: list[tuple[_Node, _Node]], path: Field) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for merge, key, value in self._merged(pairs, path):
            if merge and key.value in data:
                continue
            name = self._key(key, path)
            if name is None:
                continue
            inner = (*path, name)
            self.keys[inner] = self._place(key)
            # An empty value begins nowhere, so its key stands for it.
            empty = value.value is None and value.pairs is None and value.items is None
            data[name] = self._data(value, inner, key if empty else value)
        return data

    def _merged(self, pairs: list[tuple[_Node, _Node]], path: Field) -> Iterator[tuple[bool, _Node, _Node]]:
        """The mapping's own pairs without duplicates, then those that it merges."""
        first: dict[Any, _Node] = {}
        merges: list[_Node] = []
        for key, value in pairs:
            if key.value == "<<":
                merges.append(value)
            elif isinstance(key.value, str) and key.value in first:
                self._duplicate(key, first[key.value], path)
            else:
                first[key.value] = key
                yield False, key, value
        for merge in merges:
            yield from ((True, key, value) for key, value in self._merge(merge, path))

    def _merge(self, node: _Node, path: Field) -> Iterator[tuple[_Node, _Node]]:
        for part in node.items if node.items is not None else [node]:
            if part.pairs is None:
                self._wrong("bad-yaml", path, "'<<' merges a mapping or a list of mappings", part)
                continue
            for key, value in part.pairs:
                if key.value == "<<":
                    yield from self._merge(value, path)
                else:
                    yield key, value

    def _key(self, key: _Node, path: Field) -> str | None:
        if isinstance(key.value, str):
            return key.value
        kind = "a mapping" if key.pairs is not None else "a list" if key.items is not None else kind_of(key.value)
        hint = f'"{key.value}"' if isinstance(key.value, int | float) else ""
        self._wrong("bad-key", path, f"a key is {kind}", key, "keys that are text", hint)
        return None

    def _duplicate(self, key: _Node, first: _Node, path: Field) -> None:
        message = f"the key {key.value!r} stands here again"
        self._wrong("duplicate-key", (*path, key.value), message, key, f"it once; it is first at line {first.line + 1}")

    def _wrong(self, code: str, path: Field, message: str, node: _Node, expected: str = "", hint: str = "") -> None:
        where = self._place(node).text
        wrong = Diagnostic(code=code, field=path, message=message, expected=expected, hint=hint, where=where)
        if wrong not in self.diagnostics:
            self.diagnostics.append(wrong)
