"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from betty.backends.torch.errors import RunError


def write_whole(path: Path, parts: list[bytes | memoryview]) -> None:
    """Write a file under another name, bring it to disk, and give it its name.

    Raises:
        RunError: It cannot be written, with the reason.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")  # others may write the same
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    write_whole(path, [json.dumps(value, indent=1, sort_keys=True).encode()])


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
