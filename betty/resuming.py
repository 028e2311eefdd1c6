"""Going on with a run that was interrupted: which checkpoint, and whether the program is still the same."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml

from betty.backends.torch import checkpoint
from betty.backends.torch.errors import RunError
from betty.backends.torch.rejoining import alone
from betty.backends.torch.trainer import Trainer
from betty.observers.checkpoints import numbered
from betty.result import History
from betty.runfolder import RunFolder, write_atomically

FREE = (
    *("name", "engine.iterations", "engine.log", "engine.checkpoint", "engine.validate", "engine.early_stopping"),
    *("engine.on_nonfinite", "engine.strategy", "engine.backend", "engine.timeout"),
)
"""Fields that may change between two parts of a run: none of them changes what a step does."""
DAMAGED = ".damaged"

log = logging.getLogger("betty")


def latest_run(parent: Path, name: str | None = None) -> Path:
    """The run that was written to last, of those called ``name`` if there is one.

    Raises:
        RunError: There is none.
    """
    runs = [path for path in parent.glob(f"{name or '*'}-*") if RunFolder(path).metrics.exists()]
    if not runs:
        raise RunError(f"there is no run {name + '-<n> ' if name else ''}in {parent}: name the folder of a run")
    return max(runs, key=lambda path: RunFolder(path).metrics.stat().st_mtime)


def go_back(trainer: Trainer, folder: RunFolder, spec: str, *, anyway: bool) -> History:
    """Put the newest checkpoint of a run that is whole into ``trainer``; the rows that were recorded by then.

    Damaged checkpoints are put aside, and rows of later iterations are dropped, which come again. A run that has
    ended before its first checkpoint begins again.

    Raises:
        RunError: The program has changed, unless ``anyway``; or no checkpoint can be read.
    """
    processes = trainer.executor.program.processes
    newest = alone(processes, lambda: _checked(folder, spec, anyway=anyway), "resuming")
    if newest is not None:
        checkpoint.restore(trainer, newest)
    elif processes is None or processes.rank == 0:
        log.warning("%s has no checkpoint: the run begins again at its first iteration", folder.path)
    return alone(processes, lambda: _kept_rows(folder, trainer.iteration), "resuming")


def _checked(folder: RunFolder, spec: str, *, anyway: bool) -> Path | None:
    """The newest checkpoint that is whole, of a program that is still the same; ``None`` where there is none yet."""
    if not folder.spec.exists() and not numbered(folder.checkpoints) and folder.path.is_dir():
        return None  # ended while it was being set up
    changes = list(differences(_fields(folder), yaml.safe_load(spec)))
    if changes and not anyway:
        raise RunError(
            f"{folder.path} is a run of another program:\n  "
            + "\n  ".join(changes)
            + "\n  put these back as they were, or go on nevertheless with --resume-anyway (resume(anyway=True))"
        )
    return _newest(folder)


def differences(before: Any, after: Any, at: str = "") -> Iterator[str]:
    """Fields that differ in what matters to a step, with what they were and are."""
    if at in FREE:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            yield from differences(before.get(key), after.get(key), f"{at}.{key}" if at else str(key))
    elif before != after:
        yield f"{at}: {_shown(before)} -> {_shown(after)}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, default=str)


def _fields(folder: RunFolder) -> Any:
    try:
        return yaml.safe_load(folder.spec.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{folder.path} is no folder of a run: cannot read {folder.spec.name} ({error})") from None


def _newest(folder: RunFolder) -> Path | None:
    found = numbered(folder.checkpoints)
    if not found:
        return None
    for path in reversed(found):
        try:
            checkpoint.read(path, torch.device("cpu"))
        except RunError as error:
            log.warning("%s; the one before it is used", error)
            path.rename(path.with_name(path.name + DAMAGED))  # or it would pass for the newest for ever
            continue
        return path
    raise RunError(f"no checkpoint in {folder.checkpoints} can be read")


def _kept_rows(folder: RunFolder, iteration: int) -> History:
    """The rows up to ``iteration``; the file is cut there, a row that was not written to its end included."""
    rows = []
    with suppress(FileNotFoundError):
        for line in folder.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and row.get("iteration", math.inf) <= iteration:
                    rows.append((line, row))
    text = "".join(line + "\n" for line, _ in rows)
    write_atomically(folder.metrics, lambda path: path.write_text(text, encoding="utf-8"))
    for leftover in folder.checkpoints.glob(".*.pt.*"):
        leftover.unlink(missing_ok=True)
    # Numbers that JSON does not have are written as text.
    plain = [{key: float(value) if isinstance(value, str) else value for key, value in row.items()} for _, row in rows]
    return History(plain)
