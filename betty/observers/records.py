"""Observers that keep the metrics: in memory, in ``metrics.jsonl``, in TensorBoard's event files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from betty.backends.torch.errors import RunError
from betty.observers.base import Quiet
from betty.result import History
from betty.runfolder import write_atomically


class Memory(Quiet):
    """Collects the history that a run returns."""

    def __init__(self, history: History | None = None) -> None:
        self.history = History() if history is None else history

    def recorded(self, iteration: int, row: Mapping[str, float]) -> None:
        self.history.append(iteration, row)

    def went_back(self, iteration: int) -> None:
        self.history.cut(iteration)


class JsonLines(Quiet):
    """One JSON object a line in ``metrics.jsonl``, flushed line by line so that a reader sees whole rows only.

    Numbers that JSON does not have (infinities, not-a-number) are written as strings.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def started(self, iteration: int, last: int) -> None:
        self._file = self._open()

    def recorded(self, iteration: int, row: Mapping[str, float]) -> None:
        if self._file is None:
            return
        plain = {key: value if math.isfinite(value) else str(value) for key, value in row.items()}
        try:
            self._file.write(json.dumps({"iteration": iteration, **plain}) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._failure(error) from None

    def went_back(self, iteration: int) -> None:
        if self._file is None:
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        self._file.close()
        kept = "".join(line for line in lines if json.loads(line)["iteration"] <= iteration)
        write_atomically(self._path, lambda path: path.write_text(kept, encoding="utf-8"))
        self._file = self._path.open("a", encoding="utf-8")

    def ended(self, iteration: int, reason: str) -> None:
        if self._file is not None:
            with suppress(OSError):  # every row has been flushed, or its failure reported
                self._file.close()
            self._file = None

    def _open(self) -> IO[str]:
        try:
            return self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> RunError:
        return RunError(f"cannot write {self._path}: {error.strerror or error}")


class TensorBoard(Quiet):
    """Scalars for TensorBoard in ``folder``.

    Raises:
        RunError: The package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RunError("log.tensorboard needs tensorboard: pip install 'betty-mlo[tensorboard]'") from None
        self._writer: Any = SummaryWriter(str(folder))

    def recorded(self, iteration: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name.replace(".", "/"), value, iteration)

    def ended(self, iteration: int, reason: str) -> None:
        self._writer.flush()
