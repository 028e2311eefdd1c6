"""Drawings in files: form by ending, fallbacks, exact messages, and never half a file."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from betty.ir.diagnostics import BettyError
from betty.render import Rendered, RenderError, files, render, svg, to_dot, to_mermaid, to_svg
from tests.render.programs import two_levels

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
INSTALL = "install Graphviz (apt install graphviz, brew install graphviz)"
MISSING_NOTE = f"drawn with the built-in layout because the program dot is not installed: {INSTALL} for a finer one"


@pytest.fixture
def no_dot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def fake_dot(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    folder.mkdir()
    program = folder / "dot"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@needs_dot
@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")])
def test_pictures_by_graphviz(tmp_path: Path, ending: str, start: bytes) -> None:
    drawn = render(two_levels(), tmp_path / f"graph.{ending}")
    assert drawn == Rendered(path=tmp_path / f"graph.{ending}")
    assert drawn.path.read_bytes().startswith(start)


@needs_dot
def test_svg_by_graphviz(tmp_path: Path) -> None:
    assert render(two_levels(), tmp_path / "graph.svg").note == ""
    assert (tmp_path / "graph.svg").read_text(encoding="utf-8") == svg(two_levels()) != to_svg(two_levels())


@pytest.mark.parametrize("ending", ["dot", "gv", "mmd"])
def test_sources_need_no_graphviz(tmp_path: Path, no_dot: None, ending: str) -> None:
    drawn = render(two_levels(), str(tmp_path / f"graph.{ending}"))
    expected = to_mermaid(two_levels()) if ending == "mmd" else to_dot(two_levels())
    assert drawn.note == ""
    assert drawn.path.read_text(encoding="utf-8") == expected


def test_svg_without_graphviz(tmp_path: Path, no_dot: None) -> None:
    drawn = render(two_levels(), tmp_path / "graph.svg")
    assert drawn == Rendered(path=tmp_path / "graph.svg", note=MISSING_NOTE)
    assert drawn.path.read_text(encoding="utf-8") == to_svg(two_levels()) == svg(two_levels())


@pytest.mark.parametrize(
    ("script", "because"),
    [
        ("echo 'Error: no fonts' >&2; echo more >&2; exit 1", "dot failed (Error: no fonts)"),
        ("exit 3", "dot failed (exit code 3)"),
        ("exit 0", "dot failed (exit code 0)"),
        ("echo '<svg'", "dot wrote SVG that cannot be read"),
        ("printf '\\377'", "dot wrote SVG that cannot be read"),
        ("exec sleep 30", "dot took longer than 0 seconds"),
    ],
)
def test_svg_where_graphviz_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, because: str) -> None:
    fake_dot(monkeypatch, tmp_path / "bin", script)
    monkeypatch.setattr(files, "PATIENCE", 0.3 if "sleep" in script else 60.0)
    drawn = render(two_levels(), tmp_path / "graph.svg")
    assert drawn.note == f"drawn with the built-in layout because {because}"
    assert drawn.path.read_text(encoding="utf-8") == to_svg(two_levels())


def test_a_dot_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dot(monkeypatch, tmp_path / "bin", "")
    (tmp_path / "bin" / "dot").write_text("#!/no/such/interpreter\n")
    assert render(two_levels(), tmp_path / "graph.svg").note.endswith(
        "dot cannot be started (No such file or directory)"
    )


def test_png_without_graphviz(tmp_path: Path, no_dot: None) -> None:
    with pytest.raises(RenderError) as raised:
        render(two_levels(), tmp_path / "graph.png")
    assert str(raised.value) == (
        "RenderError: .png needs Graphviz, but the program dot is not installed\n"
        f"  where     {tmp_path}/graph.png\n"
        f"  try       {INSTALL}, or {tmp_path}/graph.svg"
    )
    assert not list(tmp_path.iterdir())


def test_pdf_where_graphviz_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dot(monkeypatch, tmp_path / "bin", "echo 'Format: \"pdf\" not recognized.' >&2; exit 1")
    with pytest.raises(RenderError) as raised:
        render(two_levels(), tmp_path / "graph.pdf")
    assert str(raised.value) == (
        'RenderError: .pdf needs Graphviz, but dot failed (Format: "pdf" not recognized.)\n'
        f"  where     {tmp_path}/graph.pdf\n"
        f"  try       {tmp_path}/graph.svg"
    )


@pytest.mark.parametrize(
    ("name", "found", "try_"),
    [
        ("graph.svgg", "'.svgg' is not a form of drawing", "graph.svg"),
        ("graph.jpg", "'.jpg' is not a form of drawing", "graph.png"),
        ("graph.EPS", "'.EPS' is not a form of drawing", "graph.pdf"),
        ("graph.mermaid", "'.mermaid' is not a form of drawing", "graph.mmd"),
        ("graph.xyz", "'.xyz' is not a form of drawing", "graph.svg"),
        ("graph", "the file's ending says the form of a drawing", "graph.svg"),
    ],
)
def test_unknown_endings(name: str, found: str, try_: str) -> None:
    with pytest.raises(BettyError) as raised:
        render(two_levels(), name)
    assert str(raised.value) == (
        f"RenderError: {found}\n"
        f"  where     {name}\n"
        "  expected  one of .svg, .png, .pdf, .dot, .gv, .mmd\n"
        f"  try       {try_}"
    )


def test_an_empty_path() -> None:
    with pytest.raises(RenderError, match=r"try       graph\.svg$"):
        render(two_levels(), "")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(RenderError) as raised:
        render(two_levels(), tmp_path / "no" / "graph.dot")
    assert str(raised.value) == (
        f"RenderError: there is no folder '{tmp_path}/no'\n"
        f"  where     {tmp_path}/no/graph.dot\n"
        f"  try       mkdir -p {tmp_path}/no"
    )


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RenderError) as raised:
        render(two_levels(), tmp_path / "file" / "graph.dot")
    assert str(raised.value) == (
        f"RenderError: '{tmp_path}/file' is not a folder\n  where     {tmp_path}/file/graph.dot"
    )


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "graph.dot").mkdir()
    with pytest.raises(RenderError) as raised:
        render(two_levels(), tmp_path / "graph.dot")
    assert str(raised.value) == (
        f"RenderError: this is a folder\n  where     {tmp_path}/graph.dot\n  try       {tmp_path}/graph.dot/graph.dot"
    )


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # permissions themselves do not bind an administrator
    with pytest.raises(RenderError) as raised:
        render(two_levels(), tmp_path / "graph.dot")
    assert str(raised.value) == (
        "RenderError: the drawing cannot be written (Permission denied)\n"
        f"  where     {tmp_path}/graph.dot\n"
        "  try       a folder of yours"
    )


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "graph.dot"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RenderError, match="No space left on device"):
        render(two_levels(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["graph.dot"]
    assert path.read_text() == "old"


def test_a_link_stays_a_link_and_permissions_are_the_usual(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    (tmp_path / "link.dot").symlink_to(tmp_path / "real.dot")
    render(two_levels(), tmp_path / "link.dot")
    assert (tmp_path / "link.dot").is_symlink()
    assert (tmp_path / "real.dot").read_text(encoding="utf-8") == to_dot(two_levels())
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "real.dot")}
    assert len(modes) == 1


@needs_dot
def test_source_has_a_white_background_for_pictures() -> None:
    done = subprocess.run(["dot", "-Tsvg"], input=to_dot(two_levels()).encode(), capture_output=True, check=True)
    (background, *_) = (shape for shape in ET.fromstring(done.stdout).iter() if shape.tag.endswith("polygon"))
    assert background.get("fill") == "white"
