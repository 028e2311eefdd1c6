"""One shard as bytes: rows, scales, losses and ids, one section after the other."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from betty.backends.torch.errors import RunError
from betty.backends.torch.influence.store.files import Growing
from betty.backends.torch.influence.store.manifest import Manifest

KINDS: dict[str, Any] = {"fp32": np.float32, "bf16": np.int16, "int8": np.int8, "fp64": np.float64}


class Packing:
    """A shard that takes rows as they come: its file grows with each batch, and what is small follows at the end.

    Args:
        path: Of the shard.
        manifest: Of the store.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._file, self._manifest = Growing(path), manifest
        self._small: list[tuple[Tensor, ...]] = []
        self.rows = 0

    def add(self, ids: Tensor, rows: Tensor, losses: Tensor) -> None:
        """Write the rows of some examples, and keep the rest."""
        scales, entries = _encoded(self._manifest, rows)
        self._file.write(_bytes(entries))
        self._small.append((*(() if scales is None else (scales,)), losses.float(), ids))
        self.rows += len(ids)

    def end(self) -> int:
        """Write what was kept, and let the shard be seen; its CRC-32."""
        for parts in zip(*self._small, strict=True):
            self._file.write(_bytes(torch.cat(parts)))
        self._file.end()
        return self._file.checksum


def _bytes(tensor: Tensor) -> memoryview:
    found: memoryview = tensor.contiguous().numpy().reshape(-1).view(np.uint8).data
    return found


def _encoded(manifest: Manifest, rows: Tensor) -> tuple[Tensor | None, Tensor]:
    if manifest.dtype == "fp64":
        return None, rows.double().contiguous()
    if manifest.dtype == "fp32":
        return None, rows.float().contiguous()
    if manifest.dtype == "bf16":
        return None, rows.bfloat16().contiguous().view(torch.int16)
    parts = rows.float().split(list(manifest.dimensions.values()), 1)
    scales = torch.stack([part.abs().amax(1) / 127 for part in parts], 1)
    whole = [part / scale.clamp(min=1e-38).unsqueeze(1) for part, scale in zip(parts, scales.T, strict=True)]
    return scales.contiguous(), torch.cat(whole, 1).round().clamp(-127, 127).to(torch.int8).contiguous()


@dataclass
class Shard:
    """A committed shard.

    Args:
        path: The file.
        rows: How many it holds.
        checksum: CRC-32 of its bytes.
        manifest: Of the store.
    """

    path: Path
    rows: int
    checksum: int
    manifest: Manifest
    checked: bool = False

    def whole(self) -> None:
        """Check that the file is as long as it was.

        Raises:
            RunError: It is missing, or truncated.
        """
        expected = self.rows * self.manifest.row_bytes
        try:
            found = self.path.stat().st_size
        except OSError:
            raise RunError(f"{self.path}: this shard of {self.rows} examples is missing") from None
        if found != expected:
            raise RunError(f"{self.path}: this shard has {found:,} bytes, and {expected:,} were written: it is damaged")

    def verify(self) -> None:
        """Check its bytes, once a process.

        Raises:
            RunError: They are not those that were written.
        """
        if self.checked:
            return
        self.whole()
        total = 0
        with self.path.open("rb") as file:
            while piece := file.read(1 << 22):
                total = zlib.crc32(piece, total)
        if total != self.checksum:
            raise RunError(f"{self.path}: this shard is not as it was written: its checksum differs")
        self.checked = True

    @property
    def ids(self) -> Tensor:
        """int64 ``[rows]``, or ``[rows, 2]`` of tokens."""
        width = 2 if self.manifest.tokens else 1
        found = torch.from_numpy(np.fromfile(self.path, np.int64, self.rows * width, offset=self._ids))
        return found.view(-1, 2) if self.manifest.tokens else found

    @property
    def losses(self) -> Tensor:
        """float32 ``[rows]``."""
        return torch.from_numpy(np.fromfile(self.path, np.float32, self.rows, offset=self._ids - 4 * self.rows))

    @property
    def _ids(self) -> int:
        """Where the ids begin: at the end of all."""
        return self.rows * (self.manifest.row_bytes - 8 * (2 if self.manifest.tokens else 1))

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` in floating point, ``[stop - start, size]``."""
        count, size = stop - start, self.manifest.size
        kind = np.dtype(KINDS[self.manifest.dtype])
        scales = None
        if self.manifest.dtype == "int8":
            parts = len(self.manifest.dimensions)
            at = kind.itemsize * size * self.rows + 4 * parts * start
            scales = torch.from_numpy(np.fromfile(self.path, np.float32, count * parts, offset=at)).view(count, parts)
        mapped = np.memmap(self.path, kind, "r", kind.itemsize * size * start, (count, size))
        entries = torch.from_numpy(np.array(mapped))
        return _decoded(self.manifest, entries, scales)


def _decoded(manifest: Manifest, entries: Tensor, scales: Tensor | None) -> Tensor:
    if manifest.dtype == "bf16":
        return entries.view(torch.bfloat16).float()
    if scales is None:
        return entries
    parts = entries.float().split(list(manifest.dimensions.values()), 1)
    return torch.cat([part * scale.unsqueeze(1) for part, scale in zip(parts, scales.T, strict=True)], 1)
