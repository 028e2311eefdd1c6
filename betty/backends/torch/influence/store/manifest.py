"""What a store holds, and what it must not be mixed with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from betty.backends.torch.influence.store.files import read_json, write_json
from betty.ir.diagnostics import BettyError, listing, nearest

NAME, FORMAT = "manifest.json", 2
WIDTHS = {"fp32": 4, "bf16": 2, "int8": 1, "fp64": 8}
"""Bytes of an entry by the name of its type."""
SHARD = 1 << 26
"""Bytes of a shard, about."""
ANY = "*"


@dataclass(frozen=True)
class Manifest:
    """What rows are of, and how they are written.

    Args:
        fingerprint: Of the model, ``structure-values``; ``structure-*`` of one that was being trained meanwhile.
        method: Name and options.
        dimensions: Entries of a row by part, in order.
        dtype: ``fp32``, ``bf16``, ``int8`` (with a scale for each row and part) or ``fp64``.
        tokens: Whether ids are pairs of example and position.
        shard_rows: Rows from which a shard is closed, at the end of a batch; 0 for about 64 MiB.

    Raises:
        BettyError: There is no such type.
    """

    fingerprint: str
    method: Mapping[str, Any]
    dimensions: Mapping[str, int]
    dtype: str = "fp32"
    tokens: bool = False
    shard_rows: int = 0
    format: int = field(default=FORMAT)

    def __post_init__(self) -> None:
        if self.dtype not in WIDTHS:
            near = nearest(str(self.dtype), list(WIDTHS))
            raise BettyError(
                f"dtype: found {self.dtype!r}, expected one of {listing(list(WIDTHS))}"
                + (f" (did you mean {near!r}?)" if near else "")
            )

    @property
    def size(self) -> int:
        """Entries of a row."""
        return sum(self.dimensions.values())

    @property
    def row_bytes(self) -> int:
        """Bytes of a row on disk: id, loss, scales and entries."""
        scales = 4 * len(self.dimensions) if self.dtype == "int8" else 0
        return 8 * (2 if self.tokens else 1) + 4 + scales + WIDTHS[self.dtype] * self.size

    @property
    def closing_rows(self) -> int:
        return self.shard_rows or max(1, SHARD // self.row_bytes)

    def write(self, folder: Path) -> None:
        # The order of parts matters, and JSON's objects are written sorted.
        written = {**asdict(self), "dimensions": list(self.dimensions.items()), "method": dict(self.method)}
        write_json(folder / NAME, written)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder.

        Raises:
            BettyError: There is none, or it is of another version of the format.
        """
        path = folder / NAME
        if not path.exists():
            raise BettyError(f"{folder}: nothing has been logged here: expected a folder with {NAME}")
        found = read_json(path)
        if found.get("format") != FORMAT:
            raise BettyError(f"{path}: has format {found.get('format')!r}, and this version reads {FORMAT}")
        return cls(**{**found, "dimensions": dict(found["dimensions"])})

    def differences(self, other: Manifest) -> list[str]:
        """What differs in another manifest, such that its rows cannot stand beside these; a line each."""
        return list(_differences(self, other))


def _differences(own: Manifest, other: Manifest) -> Iterator[str]:
    if not same_model(own.fingerprint, other.fingerprint):
        yield f"the model: the store has {own.fingerprint}, and this one is {other.fingerprint}"
    for name in sorted({*own.method, *other.method}):
        if own.method.get(name) != other.method.get(name):
            yield f"method, {name}: the store has {own.method.get(name)!r}, and {other.method.get(name)!r} is asked for"
    if dict(own.dimensions) != dict(other.dimensions):
        names = [
            name
            for name in {**own.dimensions, **other.dimensions}
            if own.dimensions.get(name) != other.dimensions.get(name)
        ]
        yield f"layers: {listing(names)} have other sizes"
    for name in ("dtype", "tokens"):
        if getattr(own, name) != getattr(other, name):
            yield f"{name}: the store has {getattr(own, name)!r}, and {getattr(other, name)!r} is asked for"


def same_model(stored: str, own: str) -> bool:
    """Whether fingerprints are of one model; ``*`` stands for any values."""
    (structure, _, values), (other, _, asked) = stored.partition("-"), own.partition("-")
    return structure == other and (values == asked or ANY in {values, asked})
