"""How each kind of thing that a program holds is put back: functions of a target and of what was saved of it."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable
from operator import is_
from types import CellType, MemberDescriptorType
from typing import Any

from betty.classes.known import MISSING, Namespace


def put_list(target: list[Any], saved: list[Any]) -> None:
    list.__setitem__(target, slice(None), saved)


def put_dict(target: dict[Any, Any], saved: dict[Any, Any]) -> None:
    dict.update(target, saved)
    # Cleared only where keys have come or changed places: between the two calls it would be empty.
    if dict.__len__(target) != len(saved) or not all(map(is_, dict.keys(target), saved)):
        dict.clear(target)
        dict.update(target, saved)


def put_ordered(target: OrderedDict[Any, Any], saved: dict[Any, Any]) -> None:
    OrderedDict.clear(target)
    for key, value in saved.items():
        OrderedDict.__setitem__(target, key, value)


def put_set(target: set[Any], saved: set[Any]) -> None:
    if len(target) != len(saved) or not set.issuperset(target, saved):
        set.clear(target)
        set.update(target, saved)


def put_deque(target: deque[Any], saved: list[Any]) -> None:
    deque.clear(target)
    deque.extend(target, saved)


def put_slot(target: tuple[Any, MemberDescriptorType], saved: Any) -> None:
    owner, slot = target
    if saved is not MISSING:
        slot.__set__(owner, saved)
    elif hasattr(owner, slot.__name__):
        slot.__delete__(owner)


def put_bits(target: Any, saved: Any) -> None:
    target.state = saved


def put_names(target: dict[str, Any], saved: Iterable[tuple[str, Any]]) -> None:
    """Put back what some names of a module are bound to."""
    for name, value in saved:
        if value is MISSING:
            target.pop(name, None)
        elif target.get(name, MISSING) is not value:
            target[name] = value


def put_cell(target: CellType, saved: Any) -> None:
    if saved is not MISSING:
        target.cell_contents = saved
    else:
        try:
            del target.cell_contents
        except ValueError:  # still empty
            return


def put_disabled(target: logging.Logger, saved: bool) -> None:
    target.disabled = saved


def put_class(target: type, saved: Namespace) -> None:
    held = target.__dict__
    for name, value in saved.items():
        if held.get(name, MISSING) is not value:
            type.__setattr__(target, name, value)
