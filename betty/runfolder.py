"""The folder of a run: where it lies and what is in it."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from betty.backends.torch.errors import RunError

METRICS, PLAN, SPEC, WEIGHTS = "metrics.jsonl", "plan.txt", "spec.yaml", "weights.pt"
CHECKPOINTS, COMMAND = "checkpoints", "command.json"


@dataclass(frozen=True)
class RunFolder:
    """``metrics.jsonl``, ``plan.txt``, ``spec.yaml`` and the final ``weights.pt`` of one run."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def spec(self) -> Path:
        return self.path / SPEC

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def write_command(self, command: Mapping[str, Any]) -> None:
        """How the run was begun: the file of its spec, overrides and trusted packages."""
        self._write(COMMAND, lambda path: path.write_text(json.dumps(command, indent=1) + "\n", encoding="utf-8"))

    def command(self) -> dict[str, Any]:
        """How the run was begun.

        Raises:
            RunError: There is no such folder, or that was not written down, as for a run from Python.
        """
        if not self.path.is_dir():
            raise RunError(f"there is no folder {self.path}")
        try:
            found: dict[str, Any] = json.loads((self.path / COMMAND).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RunError(
                f"{self.path} does not say how it was begun: name its spec, betty run SPEC --resume {self.path}"
            ) from None
        return found

    def write_plan(self, text: str) -> None:
        self._write(PLAN, lambda path: path.write_text(text, encoding="utf-8"))

    def write_spec(self, text: str) -> None:
        self._write(SPEC, lambda path: path.write_text(text, encoding="utf-8"))

    def write_weights(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """State dicts by problem, for ``torch.load(..., weights_only=True)``."""
        import torch

        content = io.BytesIO()  # given a path, torch.save would report a full disk as anything else than that
        torch.save({name: dict(state) for name, state in states.items()}, content)
        self._write(WEIGHTS, lambda path: path.write_bytes(content.getbuffer()))

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        try:
            write_atomically(self.path / name, write)
        except OSError as error:
            raise RunError(f"cannot write {self.path / name}: {error.strerror or error}") from None


def new_folder(wanted: Path | str | None, name: str, command: Mapping[str, Any] | None = None) -> RunFolder:
    """``wanted``, made if need be, or the first free ``runs/<name>-<n>``; with ``command`` written into it.

    Raises:
        RunError: The folder cannot be made, or holds another run already.
    """
    try:
        path = _next_free(Path("runs"), name) if wanted is None else Path(wanted)
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the run's folder: {error.strerror or error}: {error.filename}") from None
    if (path / METRICS).exists():
        raise RunError(f"{path} holds a run already; name another folder, or none for runs/{name}-<n>")
    found = RunFolder(path)
    if command is not None:
        found.write_command(command)
    return found


def _next_free(parent: Path, name: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    taken = [
        int(found[1]) for entry in parent.iterdir() if (found := re.fullmatch(rf"{re.escape(name)}-(\d+)", entry.name))
    ]
    number = max(taken, default=0) + 1
    while True:  # another run may take the same number at the same time
        with suppress(FileExistsError):
            (path := parent / f"{name}-{number}").mkdir()
            return path
        number += 1


def _sync(folder: Path) -> None:
    """Bring the names in a folder to disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a file that takes the place of ``path`` at once when it is complete and on disk."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        write(Path(temporary))
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
