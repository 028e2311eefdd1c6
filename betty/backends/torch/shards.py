"""Parameters that processes share in a checkpoint: each process writes what it holds, in a folder beside the file.

The file, ``00000200.pt``, holds everything else and, where such a tensor would stand, a :class:`Shard`; the folder,
``00000200.shards``, is what ``torch.distributed.checkpoint`` writes, which any number of processes can read. The file
is written last and lists the folder's contents with their checksums: without it the folder counts for nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from betty.backends.torch.errors import RunError
from betty.backends.torch.tree import sharded

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

    from betty.backends.torch.processes import Processes

Tensors = dict[str, Tensor]
METADATA = ".metadata"


@dataclass(frozen=True)
class Shard:
    """Stands for a tensor that lies in the folder beside the file."""

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool = False


def set_aside(tensors: Tensors) -> Callable[[Tensor], Any]:
    """Puts copies of tensors that processes share into ``tensors`` and gives what stands for them."""

    def one(value: Tensor) -> Any:
        if not sharded(value):
            return None
        key = str(len(tensors))
        tensors[key] = value.detach().clone()
        return Shard(key, tuple(value.shape), value.dtype, value.requires_grad)

    return one


def folder_of(path: Path) -> Path:
    """Where the shared tensors of a checkpoint lie."""
    return path.with_suffix(".shards")


def unfinished(path: Path) -> Path:
    """Where they lie while they are being written."""
    return path.with_name(f".{path.stem}.shards")


def write(tensors: Tensors, path: Path, processes: Processes) -> dict[str, str]:
    """Write this process's parts; all have to. In the first one, afterwards, the folder has its name.

    Returns:
        In the first process the checksums of all files by name; nothing in the others.

    Raises:
        OSError: There is no room for it, or it cannot be written for another reason.
        RunError: Another process could not write its own.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    folder = unfinished(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a folder left by a process that was killed is written over
        try:
            save(tensors, storage_writer=FileSystemWriter(folder), process_group=processes.writing)
        except CheckpointException as error:
            reasons = [reason for reason, _ in error.failures.values()]
            raise next((one for one in reasons if isinstance(one, OSError)), None) or _failed(path, reasons) from None
    own = {one.name: digest(one) for one in folder.glob(f"__{processes.rank}_*")}
    found = processes.collected(own)
    if not found:
        return {}
    sums = {name: value for one in found for name, value in one.items()}
    sums[METADATA] = digest(folder / METADATA)
    for stale in set(os.listdir(folder)) - set(sums):
        (folder / stale).unlink()
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # the names of the files, which are on disk themselves
    finally:
        os.close(handle)
    shutil.rmtree(folder_of(path), ignore_errors=True)
    folder.rename(folder_of(path))
    return sums


def _failed(path: Path, reasons: list[BaseException]) -> RunError:
    return RunError(f"cannot write the checkpoint {path}: {str(reasons[0]).splitlines()[0] if reasons else 'unknown'}")


def digest(path: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, sums: Mapping[str, str]) -> None:
    """Compare the folder of a checkpoint with what was written.

    Raises:
        RunError: A file is missing, or not as it was written.
    """
    for name, value in sums.items():
        part = folder_of(path) / name
        try:
            found = digest(part)
        except OSError as error:
            raise RunError(f"{path} is damaged: cannot read {part.parent.name}/{name} ({error.strerror})") from None
        if found != value:
            raise RunError(f"{path} is damaged: {part.parent.name}/{name} is not what was written (by its checksum)")


def filled(value: Any, path: Path, mesh: Any) -> Any:
    """``value`` with the tensors themselves in the place of what stands for them.

    Args:
        value: Of a checkpoint: lists, tuples, dicts and records.
        path: The checkpoint.
        mesh: Of the processes that are to share them; each then reads its own part. ``None`` to read them whole.
    """
    wanted = {one.key: one for one in _standing(value, set())}
    if not wanted:
        return value
    from torch.distributed.checkpoint.state_dict_loader import load

    tensors: Tensors = {key: _empty(one, mesh) for key, one in wanted.items()}
    reader = _reader(folder_of(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one process alone reads what several have written
        load(tensors, storage_reader=reader, no_dist=mesh is None)
    for key, one in wanted.items():
        tensors[key].requires_grad_(one.requires_grad)
    return _put(value, tensors, {})


def _empty(one: Shard, mesh: Any) -> Tensor:
    if mesh is None:
        return torch.empty(one.shape, dtype=one.dtype)
    from torch.distributed.tensor import Shard as Along
    from torch.distributed.tensor import empty

    return empty(*one.shape, dtype=one.dtype, device_mesh=mesh, placements=[Along(0)])


def _standing(value: Any, seen: set[int]) -> Iterator[Shard]:
    if isinstance(value, Shard):
        yield value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    for item in _items(value):
        yield from _standing(item, seen)


def _items(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, one.name) for one in fields(value)]
    return []


def _put(value: Any, tensors: Tensors, done: dict[int, Any]) -> Any:
    """The same containers where nothing in them stands for a tensor; what is shared stays shared."""
    if isinstance(value, Shard):
        return tensors[value.key]
    if id(value) in done:
        return done[id(value)]
    items = _items(value)
    found = [_put(item, tensors, done) for item in items]
    if all(new is old for new, old in zip(found, items, strict=True)):
        made = value
    elif isinstance(value, Mapping):
        made = dict(zip(value, found, strict=True))
    elif isinstance(value, list | tuple):
        made = type(value)(found)
    else:
        made = replace(value, **dict(zip((one.name for one in fields(value)), found, strict=True)))
    done[id(value)] = made
    return made


class _Plain(pickle.Unpickler):
    """Makes the records of ``torch.distributed.checkpoint`` and nothing else: a pickle could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("torch.distributed.checkpoint.") or (module, name) in PLAIN:
            return getattr(importlib.import_module(module), name)
        raise RunError(f"a checkpoint's {METADATA} names {module}.{name}, which no checkpoint needs")


PLAIN = {
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib", "Path"),
    *(("torch", str(one).removeprefix("torch.")) for one in vars(torch).values() if isinstance(one, torch.dtype)),
}


def _reader(folder: Path) -> Any:
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
            del args, kwargs
            found: Metadata = _Plain(io.BytesIO((folder / METADATA).read_bytes())).load()
            if found.storage_meta is not None:
                found.storage_meta.load_id = self.load_id
            return found

    return Reader(folder)
