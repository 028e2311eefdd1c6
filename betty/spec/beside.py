"""Importing the Python files that lie beside a spec.

Each folder has a package of its own in ``sys.modules``, so that the ``program.py`` of one spec is never taken for
that of another. What such a file imports from beside it by a plain name is kept apart in the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.machinery
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

PREFIX = "betty_beside_"
Stamp = tuple[int, int]


@dataclass
class _Folder:
    """What was imported from one folder.

    Args:
        path: The folder.
        root: Name of its package.
        siblings: Modules that its files imported by plain names, out of ``sys.modules`` between two imports.
        stamps: Time and size of every file, from when it was read.
    """

    path: Path
    root: str
    siblings: dict[str, ModuleType] = field(default_factory=dict)
    stamps: dict[Path, Stamp] = field(default_factory=dict)

    def load(self, module: str) -> ModuleType:
        if any(_stamp(file) != stamp for file, stamp in self.stamps.items()):
            self._forget()
        self._open()
        name = f"{self.root}.{module}"
        if name not in sys.modules:
            try:
                with self._active():
                    importlib.import_module(name)
            finally:
                self._remember()
        return sys.modules[name]

    def _open(self) -> None:
        if self.root not in sys.modules:
            package = ModuleType(self.root)
            package.__path__ = [str(self.path)]
            package.__spec__ = importlib.machinery.ModuleSpec(self.root, None, is_package=True)
            sys.modules[self.root] = package

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        """The folder first on ``sys.path`` and its siblings in ``sys.modules``, both taken away afterwards."""
        before = set(sys.modules)
        hidden = {name: sys.modules[name] for name in self.siblings if name in sys.modules}
        bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a stale cache would hide a quick edit
        sys.path.insert(0, str(self.path))
        sys.modules.update(self.siblings)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.dont_write_bytecode = bytecode
            with contextlib.suppress(ValueError):
                sys.path.remove(str(self.path))
            self.siblings.update(self._new(before))
            for name in self.siblings:
                sys.modules.pop(name, None)
            sys.modules.update(hidden)

    def _new(self, before: set[str]) -> list[tuple[str, ModuleType]]:
        """Modules that came from right beside the spec; never those of packages that were there before."""
        tops = {name.partition(".")[0] for name in before}
        fresh = [(name, module) for name, module in list(sys.modules.items()) if name not in before]
        return [(name, one) for name, one in fresh if name.partition(".")[0] not in tops and self._owns(name, one)]

    def _owns(self, name: str, module: ModuleType) -> bool:
        top, file = name.partition(".")[0], getattr(module, "__file__", None)
        if not isinstance(file, str) or top == self.root:
            return False
        return file == str(self.path / f"{top}.py") or Path(file).is_relative_to(self.path / top)

    def _modules(self) -> list[tuple[str, ModuleType]]:
        inside = [(name, one) for name, one in list(sys.modules.items()) if name.startswith(f"{self.root}.")]
        return [*inside, *self.siblings.items()]

    def _remember(self) -> None:
        for _, module in self._modules():
            file = getattr(module, "__file__", None)
            if isinstance(file, str):
                self.stamps.setdefault(Path(file), _stamp(Path(file)))

    def _forget(self) -> None:
        for name, _ in self._modules():
            sys.modules.pop(name, None)
        sys.modules.pop(self.root, None)
        self.siblings.clear()
        self.stamps.clear()


_FOLDERS: dict[Path, _Folder] = {}


def import_beside(folder: Path, module: str) -> ModuleType:
    """The module ``module`` that lies in ``folder``, read anew where any file that it came from has changed.

    Raises:
        Exception: Whatever the module raises while it is imported.
    """
    path = folder.resolve()
    if path not in _FOLDERS:
        _FOLDERS[path] = _Folder(path, PREFIX + hashlib.sha256(str(path).encode()).hexdigest()[:12])
    return _FOLDERS[path].load(module)


def file_beside(folder: Path, module: str) -> Path | None:
    """The file of ``module`` in ``folder``; ``None`` where it does not lie there."""
    stem = folder.joinpath(*module.split("."))
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)


def modules_beside(folder: Path) -> list[str]:
    """Names of the Python files in ``folder``."""
    try:
        return sorted(one.stem for one in folder.glob("*.py") if one.stem.isidentifier() and one.stem != "__init__")
    except OSError:
        return []


def plain_name(module: str) -> str:
    """The name of ``module`` as a spec writes it: without the package of its folder."""
    return module.partition(".")[2] if module.startswith(PREFIX) else module


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
