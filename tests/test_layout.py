"""The shape of the repository: rooms, links, directions of imports, sizes of files, what a wheel holds."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import betty

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "betty"
FILES = sorted(PACKAGE.rglob("*.py"))
FRONT_ENDS = ("spec", "render", "cli")
MOST_LINES = 400


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def modules_imported(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, also inside functions; none is relative."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("entry", ["pyproject.toml", "betty", "ir", "backends", "tests", "examples", "docs"])
def test_top_level_has(entry: str) -> None:
    assert (ROOT / entry).exists()


@pytest.mark.parametrize("link", ["ir", "backends"])
def test_link_is_relative_and_resolves(link: str) -> None:
    assert (ROOT / link).readlink() == Path("betty") / link
    assert (ROOT / link).resolve() == (PACKAGE / link).resolve()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", sorted((PACKAGE / "ir").rglob("*.py")), ids=name_of)
def test_ir_imports_networkx_and_the_standard_library_only(path: Path) -> None:
    allowed = {"networkx", *sys.stdlib_module_names}
    wrong = [
        name for name in modules_imported(path) if name.split(".")[0] not in allowed and not inside(name, "betty.ir")
    ]
    assert not wrong


@pytest.mark.parametrize("path", sorted((PACKAGE / "backends").rglob("*.py")), ids=name_of)
def test_backends_import_no_room_but_the_ir(path: Path) -> None:
    of_betty = [name for name in modules_imported(path) if inside(name, "betty")]
    assert not [name for name in of_betty if not inside(name, "betty.ir", "betty.backends")]


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name in FRONT_ENDS], ids=name_of)
def test_front_ends_import_torch_late(path: Path) -> None:
    """Inside functions or for type checking alone, never when the module itself is imported."""
    top = ast.parse(path.read_text(encoding="utf-8")).body
    at_import = [node for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [a.name if isinstance(node, ast.Import) else node.module for node in at_import for a in node.names]
    assert not [name for name in names if name and inside(name, "torch", "betty.backends", "betty.engine")]


@pytest.mark.parametrize("module", ["betty", "betty.ir", "betty.spec", "betty.render", "betty.cli"])
def test_front_ends_do_not_import_torch(module: str, tmp_path: Path) -> None:
    done = run_python(f"import sys, {module}; sys.exit('torch' in sys.modules)", tmp_path)
    assert done.returncode == 0, done.stderr or f"import {module} imports torch"


@pytest.mark.slow
def test_wheel_holds_the_package_only(tmp_path: Path) -> None:
    for entry in ("betty", "tests", "examples", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "_build", "runs")
        shutil.copytree(ROOT / entry, tmp_path / entry, ignore=ignored)
    for entry in ("pyproject.toml", "README.md", "LICENSE", "ir", "backends"):
        shutil.copy(ROOT / entry, tmp_path / entry, follow_symlinks=False)
    done = run_python("from setuptools import build_meta; print(build_meta.build_wheel('.'))", tmp_path)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"betty", f"betty_mlo-{betty.__version__}.dist-info"}
    assert {"betty/py.typed", *map(name_of, FILES)} == {name for name in names if name.startswith("betty/")}
