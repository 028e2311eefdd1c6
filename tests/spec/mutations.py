"""Random damage to specs: keys dropped, renamed and moved, values swapped, names misspelt, raw text corrupted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from betty.spec.source import read_yaml
from tests.spec.support import SPEC, edited

SPECS = [
    SPEC,
    edited(("method: auto", "method: {inverse: {name: cg, damping: 0.1}, product: {name: finite_difference}}")),
    edited(("module: program:Weigher", "parameters: {w: {shape: [2, 3], init: normal}, v: {init: -4}}")),
    edited(("method: auto}", "method: {name: cg, damping: 0.1}}\n  - {upper: classifier, lower: weigher, flow: up}")),
]
# Words of specs and things that YAML may hold; each is wrong in most places and right in some.
WORDS = [
    "classifier",
    "weigher",
    "batch",
    "lambda",
    "a-b",
    "auto",
    "cg",
    "neuman",
    "identity",
    "unrolled",
    "fp32",
    "both",
    "dwn",
    "on",
    "program:Net",
    "program:",
    "program:weighted_loss",
    "program:nothing",
    "progam:Net",
    ":x",
    "torch.optim.SGD",
    "torch.hub.load",
    "os:system",
    "program:WIDTH",
    "program.EXAMPLES",
    "..",
    "é",
    "'",
    "<<",
    "~",
    "1e-3",
    "010",
]
KEYS = [
    "name",
    "problems",
    "edges",
    "engine",
    "module",
    "parameters",
    "loss",
    "data",
    "optimizer",
    "scheduler",
    "unroll",
    "target",
    "args",
    "lr",
    "upper",
    "lower",
    "flow",
    "method",
    "inverse",
    "product",
    "shape",
    "init",
    "every",
    "early_stopping",
    "validate",
    "device",
    "seed",
    "log",
    "batch",
    "1",
    "classifier",
    "[key]",
    "<<",
    "a.b",
]
NAMES = st.one_of(st.sampled_from(KEYS), st.text(max_size=4))
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([10**30, -(10**30), 10**5000, 0.5, 1e-30, 1e308, float("inf"), float("nan"), -0.0]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(WORDS), st.text(max_size=8))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)
PIECES = ["\t", "{", "}", "[", "]", ":", ": ", "- ", "&a ", "*a", "!!python/object:os.system ", "<<: ", "'", '"', "|"]
PIECES += ["\n", "\x00", "...", "---", "? ", "%", "#"]


def containers(data: Any) -> Iterator[Any]:
    """Every mapping and non-empty list of ``data``."""
    if isinstance(data, dict | list) and data:
        yield data
        for inner in data.values() if isinstance(data, dict) else data:
            yield from containers(inner)


@st.composite
def damaged_data(draw: st.DrawFn) -> Any:
    """A spec with one to four changes to its mappings and lists."""
    data = copy.deepcopy(read_yaml(draw(st.sampled_from(SPECS)), "f").data)
    for _ in range(draw(st.integers(1, 4))):
        places = list(containers(data))
        if not places:
            break
        place = draw(st.sampled_from(places))
        key = draw(st.sampled_from(sorted(place, key=str) if isinstance(place, dict) else list(range(len(place)))))
        change = draw(st.sampled_from([drop, replace, misspell, rename, move, wrap, add]))
        change(draw, data, place, key)
    return data


def drop(draw: st.DrawFn, data: Any, place: Any, key: Any) -> None:
    del place[key]


def replace(draw: st.DrawFn, data: Any, place: Any, key: Any) -> None:
    place[key] = draw(VALUES)


def misspell(draw: st.DrawFn, data: Any, place: Any, key: Any) -> None:
    """Swap, drop or double a letter of a text."""
    if isinstance(place[key], str) and place[key]:
        place[key] = slip(draw, place[key])


def rename(draw: st.DrawFn, data: Any, place: Any, key: Any) -> None:
    if isinstance(place, dict):
        place[slip(draw, str(key)) if draw(st.booleans()) and key else draw(st.sampled_from(KEYS))] = place.pop(key)


def move(draw: st.DrawFn, data: Any, place: Any, key: Any) -> None:
    """Put a copy of a part somewhere else."""
    other = draw(st.sampled_from(list(containers(data))))
    part = copy.deepcopy(place[key])
    if isinstance(other, list):
        other.append(part)
    else:
        other[draw(st.sampled_from(KEYS)) if isinstance(key, int) else key] = part


def wrap(draw: st.DrawFn, data: Any, place: Any, key: Any) -> None:
    place[key] = draw(st.sampled_from([[place[key]], {"target": place[key]}, {"name": place[key]}, str(place[key])]))


def add(draw: st.DrawFn, data: Any, place: Any, key: Any) -> None:
    if isinstance(place, dict):
        place[draw(st.sampled_from(KEYS))] = draw(VALUES)
    else:
        place.append(draw(VALUES))


def slip(draw: st.DrawFn, text: str) -> str:
    index = draw(st.integers(0, len(text) - 1))
    kind = draw(st.sampled_from(["drop", "double", "swap"]))
    if kind == "drop":
        return text[:index] + text[index + 1 :]
    if kind == "double":
        return text[: index + 1] + text[index:]
    return text[:index] + text[index + 1 : index + 2] + text[index] + text[index + 2 :]


@st.composite
def damaged_text(draw: st.DrawFn) -> str:
    """The raw text of a spec with pieces cut out, doubled or put in, and lines dropped, doubled or moved."""
    text = draw(st.sampled_from(SPECS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(start + 12, len(text))))
        lines = text.splitlines(keepends=True) or [""]
        line = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["cut", "put", "double", "drop line", "double line", "indent"]))
        if kind == "cut":
            text = text[:start] + text[stop:]
        elif kind == "put":
            text = text[:start] + draw(st.one_of(st.sampled_from(PIECES), st.characters())) + text[start:]
        elif kind == "double":
            text = text[:stop] + text[start:]
        elif kind == "drop line":
            text = "".join(lines[:line] + lines[line + 1 :])
        elif kind == "double line":
            text = "".join(lines[: line + 1] + lines[line:])
        else:
            text = "".join([*lines[:line], "  ", *lines[line:]])
    return text
