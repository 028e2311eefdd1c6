"""Plain data as a :class:`Spec`, with every mistake in this project's words.

Where pydantic refuses a part of the data, that part is taken out and the rest is tried again, so that the mistakes
that need whole models (an edge to an unknown problem, a loss that cannot be imported) are found in the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from betty.ir.diagnostics import Diagnostic, Field
from betty.spec.fields import PLAIN, WEIGHING, SpecModel
from betty.spec.models import Spec
from betty.spec.wording import Fault, faults, located

MOST_ROUNDS = 40


@dataclass(frozen=True)
class Fitted:
    """What could be made of the data.

    Args:
        spec: The spec without its refused parts; ``None`` where nothing could be saved.
        diagnostics: Why parts were refused; empty for a whole spec.
        refused: The fields that were taken out.
        edges: For each edge of ``spec`` its index in the data.
    """

    spec: Spec | None
    diagnostics: tuple[Diagnostic, ...] = ()
    refused: frozenset[Field] = frozenset()
    edges: tuple[int, ...] = ()

    @property
    def without_problems(self) -> bool:
        """Whether the problems as a whole were refused, so that nothing is known of their names."""
        return ("problems",) in self.refused

    @property
    def without_edges(self) -> bool:
        """Whether edges may be missing: one was refused, or a field of the spec that may have been meant for them."""
        return any(len(path) == 1 or path[0] == "edges" for path in self.refused)

    def touched(self, path: Field) -> bool:
        """Whether ``path``, something in it or something around it was refused."""
        return any(path[: len(one)] == one or one[: len(path)] == path for one in self.refused)


@dataclass
class _Attempt:
    """Data that shrinks until it fits."""

    data: dict[str, Any]
    edges: list[int]
    refused: set[Field] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)

    def run(self, context: Mapping[str, Any]) -> Spec | None:
        for _ in range(MOST_ROUNDS):
            try:
                return Spec.model_validate(self.data, context=dict(context))
            except ValidationError as error:
                found = [located(one, self.edges) for one in error.errors(include_url=False)]
            before = frozenset(self.refused)
            for one in found:
                # Whatever is around a part that was taken out may miss it: that is no new mistake.
                if not any(old[: len(one.cut)] == one.cut for old in before):
                    self.faults.append(one)
            for one in found:
                self._take_out(one.cut, before)
            self._drop_edges()
        return None

    def _take_out(self, path: Field, before: frozenset[Field]) -> None:
        part: Any = self.data
        for depth, step in enumerate(self._current(path)):
            if part is _GONE:
                return
            inside = step in part if isinstance(part, dict) else _within(part, step)
            if not inside:
                self._remove(path[:depth] or path[:1])
                return
            if depth == len(path) - 1 or not isinstance(part[step], dict | list):
                self._remove(path[: depth + 1])
                return
            part = part[step]

    def _current(self, path: Field) -> Field:
        """``path`` with the index that its edge has among those that are left."""
        edge = len(path) > 1 and path[0] == "edges" and path[1] in self.edges
        return ("edges", self.edges.index(int(path[1])), *path[2:]) if edge else path

    def _remove(self, path: Field) -> None:
        """Delete the value at ``path``, an existing one or a field of the root."""
        self.refused.add(path)
        if len(path) == 1:
            self._remove_root(path[0])
            return
        current = self._current(path)
        part: Any = self.data
        for step in current[:-1]:
            part = part[step]
        if path[0] == "problems" and path[2:] == ("example_weights",):
            part[path[-1]] = {}  # what else is wrong depends on whether there are any
        elif isinstance(part, dict):
            part.pop(path[-1], None)
        elif path[0] == "edges" and len(path) == 2:
            part[current[-1]] = _GONE
        else:
            self._remove(path[:-1])

    def _remove_root(self, name: Any) -> None:
        if name in EMPTY:
            self.data[name] = EMPTY[name]
        else:
            self.data.pop(name, None)

    def _drop_edges(self) -> None:
        items = self.data.get("edges")
        if isinstance(items, list):
            kept = [(index, item) for index, item in zip(self.edges, items, strict=True) if item is not _GONE]
            self.edges = [index for index, _ in kept]
            self.data["edges"] = [item for _, item in kept]
        else:
            self.edges = []


_GONE = object()
# The root cannot be taken out, so its required fields are filled.
EMPTY: dict[str, Any] = {"name": "unnamed", "problems": {}}


def _within(part: Any, step: Any) -> bool:
    return isinstance(part, list) and isinstance(step, int) and 0 <= step < len(part)


def fit(data: Any, plain: bool) -> Fitted:
    """Validate ``data``; ``plain`` data came from text, other data may hold live objects. Never raises."""
    if not isinstance(data, dict):
        return Fitted(None)
    edges = data.get("edges")
    indices = list(range(len(edges))) if isinstance(edges, list) else []
    attempt = _Attempt(copied(data), indices)
    # Which methods an edge may have depends on what its upper is.
    context = {**(PLAIN if plain else {}), WEIGHING: _weighing(data.get("problems"))}
    spec = attempt.run(context)
    return Fitted(spec, tuple(faults(attempt.faults)), frozenset(attempt.refused), tuple(attempt.edges))


def _weighing(problems: Any) -> frozenset[str]:
    """Names of the problems that are example weights, in data that may be wrong."""
    found = problems.items() if isinstance(problems, dict) else ()
    return frozenset(name for name, one in found if isinstance(one, dict) and one.get("example_weights") is not None)


def copied(data: Any, depth: int = 64) -> Any:
    """Mappings anew, and the list of edges; everything else as it is, since a list may be somebody's data."""
    if not depth or not isinstance(data, dict):
        return data
    edges = depth == 64 and isinstance(data.get("edges"), list)
    new = {key: copied(value, depth - 1) for key, value in data.items()}
    return {**new, "edges": [copied(edge, depth - 1) for edge in data["edges"]]} if edges else new


def plain_data(value: Any, depth: int = 64) -> Any:
    """Models and mappings as mappings of the fields that were given; live objects stay as they are."""
    if isinstance(value, SpecModel):
        return {key: plain_data(one, depth - 1) for key, one in _given(value)}
    if depth and isinstance(value, Mapping) and type(value).__module__ in {"builtins", "types", "collections"}:
        return {key: plain_data(one, depth - 1) for key, one in value.items()}
    has_models = type(value) is list and any(isinstance(one, SpecModel) for one in value)
    return [plain_data(one, depth - 1) for one in value] if has_models else value


def _given(model: SpecModel) -> Iterator[tuple[str, Any]]:
    for name, info in type(model).model_fields.items():
        if name in model.model_fields_set:
            yield info.alias or name, getattr(model, name)
