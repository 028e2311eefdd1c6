"""A store as it is read: what is committed, in the order of ids."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from betty.backends.torch.influence.store.files import read_json
from betty.backends.torch.influence.store.manifest import NAME, Manifest
from betty.backends.torch.influence.store.shards import Shard
from betty.backends.torch.influence.store.writer import INDEX, Writer
from betty.ir.diagnostics import BettyError

BLOCK = 1 << 25
"""Bytes of a block in single precision, about."""


@dataclass(frozen=True)
class Block:
    """Some rows.

    Args:
        positions: Places of the examples in the order of ids, int64 ``[m]``: columns of scores.
        rows: ``[m, size]``, float32 (float64 where that is stored).
        losses: float32 ``[m]``.
    """

    positions: Tensor
    rows: Tensor
    losses: Tensor


class Store:
    """Gradients of examples in a folder; see :meth:`create` and :meth:`open`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._shards: list[Shard] = []
        self.refresh()

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> Store:
        """The store in a folder, made where there is none.

        Raises:
            BettyError: There is one that this manifest does not go with; what differs is named.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / NAME).exists():
            manifest.write(folder)
        found = Manifest.read(folder)
        if wrong := found.differences(manifest):
            raise BettyError("\n  ".join([f"{folder}: the store holds something else", *wrong, "take another folder"]))
        return cls(folder, found)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """A store that is there; shards that are being written are not seen until they are whole.

        Raises:
            BettyError: There is none.
            RunError: A shard is damaged.
        """
        return cls(folder, Manifest.read(folder))

    def refresh(self) -> None:
        """See what has been committed since."""
        known = {shard.path: shard for shard in self._shards}
        self._shards = []
        for index in sorted(self.folder.glob(f"part-*/{INDEX}")):
            for one in read_json(index)["shards"]:
                path = index.parent / one["name"]
                shard = known.get(path) or Shard(path, one["rows"], one["crc32"], self.manifest)
                if path not in known:
                    shard.whole()
                self._shards.append(shard)
        written = [shard.ids for shard in self._shards]
        width = (0, 2) if self.manifest.tokens else (0,)
        whole = torch.cat(written) if written else torch.zeros(width, dtype=torch.int64)
        order = torch.from_numpy(
            np.lexsort(whole.T.flip(0).numpy()) if whole.dim() == 2 else whole.argsort(stable=True).numpy()
        )
        self.ids = whole[order]
        self._places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def losses(self) -> Tensor:
        """The losses of the examples, float32 ``[N]``, in the order of ids."""
        parts = [shard.losses for shard in self._shards]
        return torch.zeros(0) if not parts else torch.empty(len(self)).scatter_(0, self._places, torch.cat(parts))

    @property
    def bytes_on_disk(self) -> int:
        return sum(shard.rows * self.manifest.row_bytes for shard in self._shards)

    def logged(self) -> set[Any]:
        """The ids that are committed; pairs of tokens."""
        return {tuple(one) if isinstance(one, list) else one for one in self.ids.tolist()}

    def writer(self, part: int = 0) -> Writer:
        """What appends to a part; every process has its own."""
        return Writer(self.folder / f"part-{part:05d}", self.manifest, self.logged())

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises:
            RunError: A shard is damaged; it is named.
        """
        for shard in self._shards:
            shard.verify()

    def blocks(self, rows: int | None = None, prefetch: int = 2) -> Iterator[Block]:
        """All rows in blocks, the next of which is read while one is worked on.

        Args:
            rows: Of a block at most; about 32 MiB by default.
            prefetch: Blocks that are read ahead.

        Raises:
            RunError: A shard is damaged.
        """
        step = rows or max(1, BLOCK // (4 * max(1, self.manifest.size)))
        ahead: queue.Queue[Block | BaseException | None] = queue.Queue(max(1, prefetch))
        stopped = threading.Event()
        thread = threading.Thread(target=self._read, args=(step, ahead, stopped), name="betty-blocks", daemon=True)
        thread.start()
        try:
            while (found := ahead.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            stopped.set()
            while thread.is_alive():  # it may wait for room
                try:
                    ahead.get(timeout=0.05)
                except queue.Empty:
                    thread.join(0.05)

    def _read(self, step: int, ahead: queue.Queue[Block | BaseException | None], stopped: threading.Event) -> None:
        try:
            first = 0
            for shard in self._shards:
                shard.verify()
                losses = shard.losses
                for start in range(0, shard.rows, step):
                    if stopped.is_set():
                        return
                    stop = min(start + step, shard.rows)
                    places = self._places[first + start : first + stop]
                    ahead.put(Block(places, shard.read(start, stop), losses[start:stop]))
                first += shard.rows
            ahead.put(None)
        except BaseException as error:
            ahead.put(error)
