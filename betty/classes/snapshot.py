"""The state of a program's own objects: taken by walking them, put back entry by entry."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from types import CellType
from typing import Any, TypeVar

from betty.classes.kinds import Kinds, Save
from betty.classes.known import MISSING, Namespace
from betty.classes.restoring import put_cell, put_class, put_dict, put_disabled, put_names

ELEMENTS = 1_000_000
"""Elements, in all, of tensors and arrays that are copied; what goes beyond is left as it is."""
TENSORS = 256
"""How many tensors and arrays are copied at most."""
MOST = 20_000
"""Objects that are followed."""

Put = Callable[[Any, Any], object]
T = TypeVar("T")


class Snapshot:
    """What the objects of a program hold; :meth:`restore` puts it back.

    What is written into tensors and arrays could not be copied back: a graph that is kept may have saved the tensors.
    Where they are held, copies take their places until :meth:`restore`, and are what code writes into.
    """

    def __init__(self, kinds: Kinds) -> None:
        self.kinds, self.known = kinds, kinds.known
        self._entries: list[tuple[Put, Any, Any]] = []
        self._elements, self._tensors = ELEMENTS, TENSORS
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._seen: set[int] = set()
        self._todo: list[tuple[Save, Any]] = []

    def restore(self) -> None:
        """Put everything back; doing it twice is as good as once."""
        for put, target, saved in reversed(self._entries):
            put(target, saved)

    def take(self, roots: Iterable[Any], functions: Iterable[Any], skipped: frozenset[str]) -> None:
        """Save the attributes of the roots, and all that they and the known code lead to.

        Args:
            roots: Objects.
            functions: More code of the program.
            skipped: Attributes of the roots whose values are not followed.
        """
        self._seen.update(map(id, roots))
        for root in roots:
            self.attributes(vars(root), skipped)
        for function in functions:
            self.look(_nowhere, None, function)
        self._names()
        while self._todo and len(self._seen) < MOST:
            save, value = self._todo.pop()
            save(self, value)

    def keep(self, put: Put, target: Any, saved: Any) -> None:
        """Have ``put(target, saved)`` called at the end."""
        self._entries.append((put, target, saved))

    def look(self, put: Put, key: Any, value: Any) -> None:
        """Look after one value; ``put(key, copy)`` puts a copy into its place."""
        kinds, kind = self.kinds, type(value)
        if kind in kinds.saved:
            if id(value) not in self._seen:
                self._seen.add(id(value))
                self._todo.append((kinds.saved[kind], value))
        elif kind in kinds.copied:
            copy = kinds.copied[kind](self, value)
            if copy is not value:
                put(key, copy)
        elif kind not in kinds.left:
            kinds.learn(kind)
            self.look(put, key, value)

    def follow(self, members: Iterable[tuple[Any, Any]], put: Put) -> None:
        """Look after members, each with the key by which ``put`` finds its place."""
        left = self.kinds.left
        for key, value in members:
            if type(value) not in left:
                self.look(put, key, value)

    def attributes(self, held: Namespace, skipped: frozenset[str] = frozenset()) -> None:
        """Save a dict of attributes, and look after its values."""
        saved = held.copy()
        self._entries.append((put_dict, held, saved))
        left = self.kinds.left
        for name, value in saved.items():
            if type(value) not in left and name not in skipped:
                self.look(held.__setitem__, name, value)

    def cell(self, cell: CellType) -> None:
        """Save what a closure holds, and look after it."""
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            value = MISSING
        self._entries.append((put_cell, cell, value))
        if type(value) not in self.kinds.left:
            self.look(lambda _, copy: put_cell(cell, copy), None, value)

    def mute(self, logger: logging.Logger) -> None:
        """Let a logger swallow its messages."""
        self._entries.append((put_disabled, logger, logger.disabled))
        logger.disabled = True

    def copy(self, value: T, size: int, make: Callable[[], T]) -> T:
        """What ``make`` gives, once for each value; the value itself where ``size`` elements are too many."""
        if id(value) not in self._copies:
            if size > self._elements or not self._tensors:
                return value
            self._elements, self._tensors = self._elements - size, self._tensors - 1
            self._copies[id(value)] = value, make()
        copy: T = self._copies[id(value)][1]
        return copy

    def _names(self) -> None:
        """What the known code reaches without an instance: globals, closures, attributes of classes and functions."""
        known, left = self.known, self.kinds.left
        for space, names in tuple(known.rebound.values()):
            self._entries.append((put_names, space, [(name, space.get(name, MISSING)) for name in names]))
        for space, names in tuple(known.reads.values()):  # more may turn up on the way
            for name in names:
                value = space.get(name, MISSING)
                if type(value) not in left:
                    self.look(functools.partial(self._place, space), name, value)
        for cell in known.cells:
            self.cell(cell)
        for cls, data in known.classes:
            self._class(cls, data)
        for held in known.attributes:
            self.attributes(held)
        self.follow(enumerate(known.defaults), _nowhere)

    def _place(self, space: Namespace, name: str, copy: Any) -> None:
        self._entries.append((put_names, space, [(name, space[name])]))
        space[name] = copy

    def _class(self, cls: type, names: Iterable[str]) -> None:
        held = cls.__dict__
        saved = {name: held[name] for name in names if name in held}
        self._entries.append((put_class, cls, saved))
        self.follow(saved.items(), functools.partial(type.__setattr__, cls))


def _nowhere(key: Any, copy: Any) -> None:
    """What has no place of its own is followed, and no copy takes its place."""
