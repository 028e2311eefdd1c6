"""A store in the formats of other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from betty.backends.torch.errors import RunError
from betty.backends.torch.influence.store import Store
from betty.ir.diagnostics import BettyError
from betty.runfolder import write_atomically

FORMATS = ".npz, .parquet, or a folder of Hugging Face datasets (a name without an ending)"


def export(store: Store, path: Path) -> Path:
    """Write ids, losses and gradients, in the order of ids.

    Args:
        store: What is written.
        path: ``.npz`` has the arrays ``ids``, ``losses`` and ``gradients [N, size]``; ``.parquet`` a row for each
            example with its gradient as a list; a folder is a Hugging Face ``Dataset`` of the same columns.

    Raises:
        BettyError: The ending is unknown, or a package for it is missing.
        RunError: It cannot be written.
    """
    write = {".npz": _arrays, ".parquet": _parquet, "": _dataset}.get(path.suffix)
    if write is None:
        raise BettyError(f"{path}: there is no export as {path.suffix!r}: expected {FORMATS}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(store, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def _arrays(store: Store, path: Path) -> None:
    kind = np.float64 if store.manifest.dtype == "fp64" else np.float32
    gradients = np.empty((len(store), store.manifest.size), kind)
    for block in store.blocks():
        gradients[block.positions.numpy()] = block.rows.numpy()
    names = np.array([f"{name} {size}" for name, size in store.manifest.dimensions.items()])
    content = {"ids": store.ids.numpy(), "losses": store.losses.numpy(), "gradients": gradients, "parts": names}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **content)

    write_atomically(path, write)


def _batches(store: Store) -> Iterator[dict[str, Any]]:
    """Columns of some examples; in the order of ids within a block, and of blocks as they were written."""
    for block in store.blocks():
        order = block.positions.argsort()
        ids = store.ids[block.positions[order]]
        columns: dict[str, Tensor] = {"id": ids} if ids.dim() == 1 else {"id": ids[:, 0], "position": ids[:, 1]}
        columns["loss"] = block.losses[order]
        yield {
            **{name: value.numpy() for name, value in columns.items()},
            "gradient": list(block.rows[order].float().numpy()),
        }


def _parquet(store: Store, path: Path) -> None:
    arrow = _needed(lambda: __import__("pyarrow.parquet"), "pyarrow", "parquet")

    def write(temporary: Path) -> None:
        writer = None
        for columns in _batches(store):
            table = arrow.table(columns)
            writer = writer or arrow.parquet.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()

    write_atomically(path, write)


def _dataset(store: Store, path: Path) -> None:
    datasets = _needed(lambda: __import__("datasets"), "datasets", "datasets")
    parts = [datasets.Dataset.from_dict(columns) for columns in _batches(store)]
    with suppress(FileNotFoundError):
        if any(path.iterdir()):
            raise BettyError(f"{path}: is there already, and is not empty: expected a new folder")
    datasets.concatenate_datasets(parts).save_to_disk(str(path))


def _needed(load: Callable[[], Any], package: str, extra: str) -> Any:
    try:
        return load()
    except ImportError:
        raise BettyError(f"this export needs {package}: pip install 'betty-mlo[{extra}]'") from None
