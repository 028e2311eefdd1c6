"""Rows on their way to disk, in a thread of their own."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from betty.backends.torch.errors import RunError
from betty.backends.torch.influence.store.files import read_json, write_json
from betty.backends.torch.influence.store.manifest import Manifest
from betty.backends.torch.influence.store.shards import Packing
from betty.ir.diagnostics import BettyError, listing

INDEX = "index.json"
WAITING = 4
"""Batches that may wait for the disk."""

Batch = tuple[Tensor, Tensor, Tensor]


class Writer:
    """Appends examples to one part of a store; others write to theirs at the same time.

    A shard is a file of its own, which is there whole or not at all, and counts from when the index names it. What was
    not committed when a process is killed is logged again by the next one, into the same shards.

    Args:
        folder: Of the part.
        manifest: Of the store.
        known: Ids that are in the store.
    """

    def __init__(self, folder: Path, manifest: Manifest, known: set[Any]) -> None:
        self.folder, self.manifest, self._known = folder, manifest, set(known)
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.new"):  # by a process that was killed; a part has one writer
            left.unlink(missing_ok=True)
        path = folder / INDEX
        self._index: list[dict[str, Any]] = read_json(path)["shards"] if path.exists() else []
        self._waiting: queue.Queue[Batch | None] = queue.Queue(WAITING)
        self._failure: BaseException | None = None
        self._shard: Packing | None = None
        self._thread = threading.Thread(target=self._work, name="betty-store", daemon=True)
        self._thread.start()
        self._closed = False

    def append(self, ids: Tensor, rows: Tensor, losses: Tensor) -> None:
        """Hand over some examples.

        Args:
            ids: int64 ``[n]``, or ``[n, 2]`` of tokens.
            rows: ``[n, size]``.
            losses: ``[n]``.

        Raises:
            BettyError: An id is there already.
            RunError: A row is not finite or too long, or an earlier one could not be written.
        """
        self._raise()
        if rows.dim() != 2 or rows.shape != (len(ids), self.manifest.size) or len(losses) != len(ids):
            raise RunError(f"rows are {list(rows.shape)}: expected [{len(ids)}, {self.manifest.size}]")
        self._new(ids)
        # Copied off the device here, so that the thread has nothing to do with it.
        rows = rows.detach().cpu()
        # Of a whole row, which is faster; a sum may also be too large where each entry is not.
        if not bool(rows.sum(1).isfinite().all()) and not bool(rows.isfinite().all()):
            wrong = ids[~rows.isfinite().all(1)].tolist()
            raise RunError(f"gradients of {len(wrong)} examples are not finite, such as of {wrong[0]}")
        self._waiting.put((ids.detach().cpu(), rows, losses.detach().float().cpu()))

    def _new(self, ids: Tensor) -> None:
        asked = [tuple(one) if isinstance(one, list) else one for one in ids.tolist()]
        twice = [one for one in asked if one in self._known]
        fresh: set[Any] = set()
        for one in asked:
            if one in fresh:
                twice.append(one)
            fresh.add(one)
        if twice:
            raise BettyError(
                f"ids given twice: {listing([str(one) for one in twice[:5]])}; each example is logged once"
            )
        self._known |= fresh

    def close(self) -> None:
        """Commit what is left.

        Raises:
            RunError: It could not be written.
        """
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
            self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _work(self) -> None:
        failed = False
        while (batch := self._waiting.get()) is not None:
            if failed:
                continue  # so that nobody waits for room
            try:
                self._take(*batch)
            except BaseException as error:
                self._failure, failed = error, True
        if not failed:
            try:
                self._commit()
            except BaseException as error:
                self._failure = error

    def _take(self, ids: Tensor, rows: Tensor, losses: Tensor) -> None:
        if self._shard is None:
            self._shard = Packing(self.folder / self._name(), self.manifest)
        self._shard.add(ids, rows, losses)
        if self._shard.rows >= self.manifest.closing_rows:
            self._commit()

    def _name(self) -> str:
        return f"{len(self._index):06d}.shard"

    def _commit(self) -> None:
        if self._shard is None:
            return
        shard, self._shard = self._shard, None
        checksum = shard.end()
        self._index.append({"name": self._name(), "rows": shard.rows, "crc32": checksum})
        write_json(self.folder / INDEX, {"shards": self._index})

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        # What was handed over is good, whatever was raised since; and that is what is to be told.
        self._closed = True
        self._waiting.put(None)
        self._thread.join()
