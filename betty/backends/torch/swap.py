"""Other tensors in the place of a module's parameters and buffers, for the time of one evaluation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Place = tuple[Any, Any]
"""A dict or list of a module, and the key or index under which it holds a tensor."""


BufferValues = tuple[dict[str, Tensor | None], ...]
"""Buffers by the module that holds them, and by name."""


class Places:
    """Where a module keeps its trainable parameters, or those of them that are called ``names``.

    The same as ``torch.func.functional_call`` does with names, found once instead of at every call. A tensor that a
    module holds in several places (tied weights, the flat list of an ``nn.LSTM``) is replaced in all of them.
    """

    def __init__(self, module: nn.Module, names: Collection[str] | None = None) -> None:
        named = module.named_parameters()
        wanted = {id(tensor) for name, tensor in named if tensor.requires_grad and (names is None or name in names)}
        self.tensors: list[Tensor] = []
        self._places: list[list[Place]] = []
        index: dict[int, int] = {}
        for container, key, tensor in _held(module):
            if id(tensor) not in wanted:
                continue
            if id(tensor) not in index:
                index[id(tensor)] = len(self.tensors)
                self.tensors.append(tensor)
                self._places.append([])
            self._places[index[id(tensor)]].append((container, key))

    def holding(self, stand_ins: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Hold ``stand_ins``, one for each of ``tensors``; the module's own are back afterwards in any case."""
        return _Held(self, stand_ins)

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Hold ``tensors`` from now on."""
        for places, tensor in zip(self._places, tensors, strict=True):
            for container, key in places:
                container[key] = tensor


class _Held:
    """A class, since entering a generator takes as long as replacing the tensors of a small module."""

    __slots__ = ("_places", "_stand_ins")

    def __init__(self, places: Places, stand_ins: Sequence[Tensor]) -> None:
        self._places, self._stand_ins = places, stand_ins

    def __enter__(self) -> None:
        try:
            self._places.put(self._stand_ins)
        except BaseException:
            self._places.put(self._places.tensors)
            raise

    def __exit__(self, *error: object) -> None:
        self._places.put(self._places.tensors)


class Buffers:
    """The buffers of some modules, to be replaced for a while and put back.

    Looked up anew each time: a module may hold another tensor as its buffer than it did before, where it assigns
    instead of writing in place, or may hold one in a place that was empty.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        found = {id(part): part._buffers for module in modules for part in module.modules() if part._buffers}
        self._held: tuple[dict[str, Tensor | None], ...] = tuple(found.values())

    @property
    def none(self) -> bool:
        """Whether there are no places for buffers at all."""
        return not self._held

    @contextmanager
    def spared(self, stand_in: Callable[[Tensor], Tensor] = torch.clone) -> Iterator[None]:
        """Let modules write to stand-ins; their own buffers are back afterwards, unwritten, in any case."""
        before = self.held()
        copies: dict[int, Tensor] = {}  # a buffer in several places has one stand-in
        try:
            for held, own in zip(self._held, before, strict=True):
                for name, tensor in own.items():
                    if tensor is not None:
                        held[name] = copies.setdefault(id(tensor), stand_in(tensor))
            yield
        finally:
            self._put(before)

    def values(self) -> BufferValues:
        """Copies of the buffers as they stand, place by place."""
        return copied(self.held())

    def held(self) -> BufferValues:
        """The tensors that are in place now."""
        return tuple(dict(held) for held in self._held)

    @contextmanager
    def holding(self, values: BufferValues) -> Iterator[None]:
        """Let modules use and write to ``values``; their own buffers are back afterwards in any case."""
        before = self.held()
        try:
            self._put(values)
            yield
        finally:
            self._put(before)

    def put(self, values: BufferValues) -> None:
        """Let the modules hold ``values`` from now on."""
        self._put(values)

    def _put(self, values: BufferValues) -> None:
        for held, own in zip(self._held, values, strict=True):
            held.clear()
            held.update(own)


def copied(values: BufferValues) -> BufferValues:
    """Detached copies; a buffer in several places stays one."""
    known: dict[int, Tensor] = {}

    def once(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return known.setdefault(id(tensor), tensor.detach().clone())

    return tuple({name: once(tensor) for name, tensor in held.items()} for held in values)


def _held(module: nn.Module) -> Iterator[tuple[Any, Any, Tensor]]:
    """Every place that holds a parameter, in the order of ``module.parameters()``."""
    for part in module.modules():
        for key, tensor in part._parameters.items():
            if tensor is not None:
                yield part._parameters, key, tensor
        # Recurrent layers compute with a list that refers to the same tensors.
        for position, tensor in enumerate(getattr(part, "_flat_weights", [])):
            if isinstance(tensor, Tensor):
                yield part._flat_weights, position, tensor
