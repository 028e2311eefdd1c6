"""How values of each type are saved, followed and put back."""

from __future__ import annotations

import argparse
import enum
import functools
import logging
import random
import sys
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Callable
from itertools import islice
from operator import is_
from types import BuiltinMethodType, FunctionType, MemberDescriptorType, MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from betty.classes.known import MISSING, Known
from betty.classes.restoring import put_bits, put_deque, put_dict, put_list, put_ordered, put_set, put_slot

if TYPE_CHECKING:
    from betty.classes.snapshot import Snapshot

LONG, SAMPLE = 256, 32
"""A container of more members than LONG is followed only if one of the SAMPLE at either end is worth following."""
LEFT = (nn.Module, Optimizer, LRScheduler, DataLoader, Dataset, Sampler, BaseException, enum.Enum, type)
PLAIN = (SimpleNamespace, argparse.Namespace, UserDict, UserList)
"""Classes of Python's own that are no more than their attributes."""

Save = Callable[["Snapshot", Any], None]
Copy = Callable[["Snapshot", Any], Any]


class Kinds:
    """What to do with values, by their type; found once for each.

    Args:
        known: Decides which classes are the program's own, and is told of them.
    """

    def __init__(self, known: Known) -> None:
        self.known = known
        self.left: set[type] = {int, float, str, bool, bytes, complex, type(None)}
        """Types whose values are neither saved nor followed."""
        self.saved: dict[type, Save] = {}
        self.copied: dict[type, Copy] = {}
        """Types whose values give way to a copy for a while."""

    def learn(self, kind: type) -> None:
        """Put ``kind`` into one of the three tables."""
        self.known.learn(kind)
        if copied := _copied(kind):
            self.copied[kind] = copied
        elif saved := _saved(kind):
            self.saved[kind] = saved
        elif self._plain(kind):
            self.saved[kind] = _object_of(kind)
        else:
            self.left.add(kind)

    def _plain(self, kind: type) -> bool:
        """Whether values are objects of the program's own, or of a class that does nothing but hold attributes."""
        if issubclass(kind, LEFT) or hasattr(kind, "__next__"):
            return False
        return issubclass(kind, PLAIN) or self.known.own.of(kind.__module__)


def _copied(kind: type) -> Copy | None:
    numpy = sys.modules.get("numpy")
    if kind is Tensor:  # parameters, and whatever else derives from it, are looked after where they belong
        return _tensor
    if numpy is not None and kind is numpy.ndarray:
        return _array
    return _tuple if issubclass(kind, tuple) and kind is not torch.Size else None


def _saved(kind: type) -> Save | None:
    if issubclass(kind, random.SystemRandom):  # has no state
        return None
    found = next((save for base, save in SAVED.items() if issubclass(kind, base)), None)
    if found is not None and issubclass(kind, CONTAINERS) and kind.__module__ not in {"builtins", "collections"}:
        return _with_attributes(found) if kind.__dictoffset__ else found
    numpy = sys.modules.get("numpy")
    if found is None and numpy is not None and issubclass(kind, numpy.random.Generator | numpy.random.RandomState):
        return _numpy_random
    return found


# Copies that take the place of what code may write into


def _tensor(snapshot: Snapshot, tensor: Tensor) -> Tensor:
    if not snapshot.known.edits or tensor.requires_grad or tensor.layout is not torch.strided:
        return tensor
    base = tensor._base
    if base is None or base.requires_grad or base.dtype != tensor.dtype:
        return snapshot.copy(tensor, tensor.numel(), tensor.clone)
    # A view: what is written into it is to be seen in what it is a view of.
    other = snapshot.copy(base, base.numel(), base.clone)
    if other is base or other.stride() != base.stride():
        return tensor
    offset = tensor.storage_offset() - base.storage_offset()
    return snapshot.copy(tensor, 0, lambda: other.as_strided(tensor.size(), tensor.stride(), offset))


def _array(snapshot: Snapshot, array: Any) -> Any:
    return snapshot.copy(array, array.size, array.copy) if snapshot.known.edits else array


def _tuple(snapshot: Snapshot, value: Any) -> Any:
    """The tuple itself, unless a member gives way to a copy."""
    if not _worth(snapshot, value):
        return value
    members = list(value)
    snapshot.follow(enumerate(value), members.__setitem__)
    if all(map(is_, members, value)):
        return value
    return type(value)._make(members) if hasattr(value, "_make") else tuple(members)


# What is saved, and how it is put back


def _worth(snapshot: Snapshot, members: Any) -> bool:
    """Whether some member of a list or tuple may be worth following."""
    sample = members if len(members) <= LONG else [*members[:SAMPLE], *members[-SAMPLE:]]
    return not snapshot.kinds.left.issuperset(map(type, sample))


def _nowhere(key: Any, copy: Any) -> None:
    """Where a member cannot be replaced, what it holds is followed, and no copy takes its place."""


def _list(snapshot: Snapshot, value: list[Any]) -> None:
    saved = list.copy(value)
    snapshot.keep(put_list, value, saved)
    if saved and _worth(snapshot, saved):
        snapshot.follow(enumerate(saved), functools.partial(list.__setitem__, value))


def _dict(snapshot: Snapshot, value: dict[Any, Any]) -> None:
    saved = dict.copy(value)
    snapshot.keep(put_ordered if isinstance(value, OrderedDict) else put_dict, value, saved)
    if saved and _worth(snapshot, list(islice(saved.values(), LONG))):
        snapshot.follow(saved.items(), functools.partial(dict.__setitem__, value))


def _set(snapshot: Snapshot, value: set[Any]) -> None:
    saved = set(value)
    snapshot.keep(put_set, value, saved)
    if _worth(snapshot, list(islice(saved, LONG))):
        snapshot.follow(enumerate(saved), _nowhere)


def _frozen(snapshot: Snapshot, value: frozenset[Any]) -> None:
    snapshot.follow(enumerate(value), _nowhere)


def _deque(snapshot: Snapshot, value: deque[Any]) -> None:
    saved = list(value)
    snapshot.keep(put_deque, value, saved)
    if _worth(snapshot, saved):
        snapshot.follow(enumerate(saved), value.__setitem__)


def _with_attributes(save: Save) -> Save:
    """Save an object of a class that derives from a container, attributes included."""

    def both(snapshot: Snapshot, value: Any) -> None:
        save(snapshot, value)
        snapshot.attributes(vars(value))

    return both


def _object_of(kind: type) -> Save:
    slots = tuple(one for cls in kind.__mro__ for one in vars(cls).values() if isinstance(one, MemberDescriptorType))
    has_attributes = bool(kind.__dictoffset__)

    def save(snapshot: Snapshot, value: Any) -> None:
        if has_attributes:
            snapshot.attributes(value.__dict__)
        for slot in slots:
            _slot(snapshot, value, slot)

    return save


def _slot(snapshot: Snapshot, owner: Any, slot: MemberDescriptorType) -> None:
    try:
        value = slot.__get__(owner)
    except AttributeError:
        value = MISSING
    snapshot.keep(put_slot, (owner, slot), value)
    snapshot.look(lambda _, copy: slot.__set__(owner, copy), None, value)


# Code, loggers and generators of random numbers


def _function(snapshot: Snapshot, value: FunctionType) -> None:
    snapshot.known.learn(value)
    for cell in value.__closure__ or ():
        snapshot.cell(cell)


def _builtin(snapshot: Snapshot, value: BuiltinMethodType) -> None:
    snapshot.look(_nowhere, None, value.__self__)  # the list of a stored `history.append`


def _method(snapshot: Snapshot, value: MethodType) -> None:
    snapshot.follow(enumerate((value.__func__, value.__self__)), _nowhere)


def _partial(snapshot: Snapshot, value: functools.partial[Any]) -> None:
    snapshot.follow(enumerate((value.func, *value.args, *value.keywords.values())), _nowhere)


def _logger(snapshot: Snapshot, value: logging.Logger) -> None:
    snapshot.mute(value)


def _adapter(snapshot: Snapshot, value: logging.LoggerAdapter[Any]) -> None:
    snapshot.look(_nowhere, None, value.logger)


def _random(snapshot: Snapshot, value: random.Random) -> None:
    snapshot.keep(random.Random.setstate, value, value.getstate())


def _generator(snapshot: Snapshot, value: torch.Generator) -> None:
    snapshot.keep(torch.Generator.set_state, value, value.get_state())


def _numpy_random(snapshot: Snapshot, value: Any) -> None:
    bits = value.bit_generator if hasattr(value, "bit_generator") else value._bit_generator
    snapshot.keep(put_bits, bits, bits.state)


CONTAINERS = (list, dict, set, deque)
SAVED: dict[type, Save] = {
    list: _list,
    dict: _dict,
    set: _set,
    frozenset: _frozen,
    deque: _deque,
    FunctionType: _function,
    MethodType: _method,
    BuiltinMethodType: _builtin,
    functools.partial: _partial,
    logging.Logger: _logger,
    logging.LoggerAdapter: _adapter,
    random.Random: _random,
    torch.Generator: _generator,
}
