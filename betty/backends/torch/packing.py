"""Values of a run as plain containers of tensors and numbers, which torch loads without running any code.

Records of this package are written with their name, and whatever several of them share is shared again when they are
read: what is kept of a trajectory goes by identity.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from betty.backends.torch.tree import entire

RECORD, QUEUE, ARRAY = "$record", "$queue", "$array"
PLAIN = (type(None), bool, int, float, complex, str, torch.dtype, torch.Size)


class UnpackableError(Exception):
    """A value of a type that cannot be written as plain data."""

    def __init__(self, kind: type) -> None:
        super().__init__(kind.__name__)
        self.kind = kind


class Codec:
    """Packs and unpacks values that may hold the given records; one codec serves one file.

    Args:
        records: Classes of records; all their fields are written.
        aside: What to write in the place of a tensor; ``None`` where it is to be written itself.
    """

    def __init__(self, records: Iterable[type], aside: Callable[[Tensor], Any] | None = None) -> None:
        self._aside = aside
        self._records = {kind.__name__: kind for kind in records}
        self._known: dict[int, tuple[Any, Any]] = {}

    def pack(self, value: Any) -> Any:
        """``value`` as plain data, tensors among it.

        Raises:
            UnpackableError: There is something else in it.
        """
        return self._once(value, self._packed)

    def unpack(self, value: Any) -> Any:
        """What :meth:`pack` has made plain data of."""
        return self._once(value, self._unpacked)

    def _once(self, value: Any, change: Callable[[Any], Any]) -> Any:
        if isinstance(value, PLAIN):
            return value
        if id(value) not in self._known:
            # With the value, so that no other can take its address meanwhile.
            self._known[id(value)] = value, change(value)
        return self._known[id(value)][1]

    def _packed(self, value: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if isinstance(value, Tensor):
            standing = None if self._aside is None else self._aside(value)
            return _bare(value) if standing is None else self._packed(standing)
        if type(value) in (list, tuple, set):
            return type(value)(self.pack(item) for item in value)
        if type(value) is dict:
            return {self.pack(key): self.pack(item) for key, item in value.items()}
        if isinstance(value, deque):
            return {QUEUE: [self.pack(item) for item in value], "most": value.maxlen}
        if is_dataclass(value) and self._records.get(type(value).__name__) is type(value):
            held = {one.name: self.pack(getattr(value, one.name)) for one in fields(value)}
            return {RECORD: type(value).__name__, "fields": held}
        if numpy is not None and isinstance(value, numpy.ndarray) and not value.dtype.hasobject:
            raw = torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8) if value.size else None
            return {ARRAY: raw, "dtype": value.dtype.str, "shape": list(value.shape)}
        if numpy is not None and isinstance(value, numpy.generic) and not value.dtype.hasobject:
            return value.item()
        raise UnpackableError(type(value))

    def _unpacked(self, value: Any) -> Any:
        if type(value) in (list, tuple, set):
            return type(value)(self.unpack(item) for item in value)
        if type(value) is not dict:
            return value
        if RECORD in value:
            return self._records[value[RECORD]](**{key: self.unpack(item) for key, item in value["fields"].items()})
        if QUEUE in value:
            return deque((self.unpack(item) for item in value[QUEUE]), maxlen=value["most"])
        if ARRAY in value:
            import numpy as np

            raw = value[ARRAY].numpy().tobytes() if value[ARRAY] is not None else b""
            return np.frombuffer(raw, dtype=value["dtype"]).reshape(value["shape"]).copy()
        return {self.unpack(key): self.unpack(item) for key, item in value.items()}


def _bare(value: Tensor) -> Tensor:
    """A copy without a graph, of what processes share all of it; subclasses of tensors become tensors."""
    return entire(value.detach()).clone().requires_grad_(value.requires_grad)
