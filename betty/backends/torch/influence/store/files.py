"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from betty.backends.torch.errors import RunError

SYNCED = 1 << 24
"""Bytes after which a growing file is brought to disk, so that little is left when it ends."""


class Growing:
    """A file that grows under another name, and takes its own when it is whole and on disk.

    Args:
        path: What it is called in the end.

    Attributes:
        checksum: CRC-32 of what was written.

    Raises:
        RunError: It cannot be written, with the reason; nothing is left of it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.checksum, self._loose = path, 0, 0
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.new")  # others may write the same
        with self._told():
            self._file = self._temporary.open("wb", buffering=0)

    def write(self, part: bytes | memoryview) -> None:
        """Append."""
        left = memoryview(part)
        self.checksum = zlib.crc32(left, self.checksum)
        with self._told():
            while left:
                written = self._file.write(left)
                left, self._loose = left[written:], self._loose + written
            if self._loose >= SYNCED:
                os.fsync(self._file.fileno())
                self._loose = 0

    def end(self) -> None:
        """Bring it to disk and give it its name."""
        with self._told():
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self.path)
            _sync(self.path.parent)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError, AttributeError):
                self._file.close()
            with suppress(OSError):
                self._temporary.unlink()
            raise RunError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a file of JSON whole or not at all.

    Raises:
        RunError: It cannot be written, with the reason.
    """
    file = Growing(path)
    file.write(json.dumps(value, indent=1, sort_keys=True).encode())
    file.end()


def read_json(path: Path) -> Any:
    """What a file holds.

    Raises:
        RunError: It cannot be read, or is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise RunError(f"{path}: is damaged: {error}") from error


def _sync(folder: Path) -> None:
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
