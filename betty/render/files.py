"""Drawings in files: the form follows the file's ending, and a file is written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from betty.ir.diagnostics import Diagnostic, nearest
from betty.ir.graph import Graph
from betty.render.dot import drawing, to_dot
from betty.render.dressing import dressed
from betty.render.errors import RenderError
from betty.render.mermaid import to_mermaid
from betty.render.picture import to_svg

ENDINGS = (".svg", ".png", ".pdf", ".dot", ".gv", ".mmd")
INSTEAD = {
    **dict.fromkeys((".bmp", ".gif", ".jpeg", ".jpg", ".tif", ".tiff", ".webp"), ".png"),
    **dict.fromkeys((".eps", ".ps"), ".pdf"),
    **dict.fromkeys((".md", ".mermaid"), ".mmd"),
    **dict.fromkeys((".graphviz", ".txt"), ".dot"),
    **dict.fromkeys((".htm", ".html"), ".svg"),
}
INSTALL = "install Graphviz (apt install graphviz, brew install graphviz)"
PATIENCE = 120.0
"""Seconds that ``dot`` may take."""
SHARPNESS = "160"
"""Dots per inch of a PNG."""


@dataclass(frozen=True)
class Rendered:
    """A drawing that was written: where, and in one line what would make it better, or nothing."""

    path: Path
    note: str = ""


class DotError(Exception):
    """Graphviz is missing or failed; the message continues a sentence."""


def render(graph: Graph, path: str | Path) -> Rendered:
    """Draw ``graph`` into ``path``, replacing what is there.

    The ending decides: ``.svg``, ``.png`` and ``.pdf`` by the program ``dot`` of Graphviz, ``.dot`` and ``.gv`` its
    source, ``.mmd`` a Mermaid flowchart. Without ``dot`` an SVG is laid out by betty itself, and the note says so.

    Raises:
        RenderError: The ending is unknown, ``.png`` or ``.pdf`` is asked for and ``dot`` is missing or fails, or the
            file cannot be written.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise _unknown(path)
    _check_folder(path)
    content, note = _content(graph, path, ending)
    _write(path, content)
    return Rendered(path=path, note=note)


def svg(graph: Graph) -> str:
    """``graph`` as SVG text, by Graphviz where it is installed and by the built-in layout elsewhere."""
    return _svg(graph)[0]


def _content(graph: Graph, path: Path, ending: str) -> tuple[bytes, str]:
    if ending == ".svg":
        text, note = _svg(graph)
        return text.encode(), note
    if ending in {".png", ".pdf"}:
        try:
            return _dot(graph, ending[1:], "white"), ""
        except DotError as error:
            raise _needs_dot(path, ending, str(error)) from None
    return (to_mermaid(graph) if ending == ".mmd" else to_dot(graph)).encode(), ""


def _svg(graph: Graph) -> tuple[str, str]:
    try:
        return dressed(_dot(graph, "svg", "transparent").decode(), graph), ""
    except DotError as error:
        better = f": {INSTALL} for a finer one" if shutil.which("dot") is None else ""
        return to_svg(graph), f"drawn with the built-in layout because {error}{better}"
    except (ET.ParseError, UnicodeDecodeError):
        return to_svg(graph), "drawn with the built-in layout because dot wrote SVG that cannot be read"


def _dot(graph: Graph, form: str, background: str) -> bytes:
    """What ``dot`` makes of the graph.

    Raises:
        DotError: It is missing, fails or takes too long.
    """
    program = shutil.which("dot")
    if program is None:
        raise DotError("the program dot is not installed")
    source = drawing(graph, background).source
    command = [program, f"-T{form}", *([f"-Gdpi={SHARPNESS}"] if form == "png" else [])]
    try:
        done = subprocess.run(command, input=source.encode(), capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise DotError(f"dot took longer than {PATIENCE:.0f} seconds") from None
    except OSError as error:
        raise DotError(f"dot cannot be started ({error.strerror})") from None
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise DotError(f"dot failed ({said[0] if said else f'exit code {done.returncode}'})")
    return bytes(done.stdout)


def _check_folder(path: Path) -> None:
    folder = path.parent
    if not folder.exists():
        raise _failure(path, f"there is no folder {str(folder)!r}", hint=f"mkdir -p {folder}")
    if not folder.is_dir():
        raise _failure(path, f"{str(folder)!r} is not a folder")
    if path.is_dir():
        raise _failure(path, "this is a folder", hint=str(path / f"graph{path.suffix}"))


def _write(path: Path, content: bytes) -> None:
    """Beside its place first, then moved: a reader sees the old file or the new one. A link stays a link."""
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _failure(path, f"the drawing cannot be written ({error.strerror})", hint="a folder of yours") from None


def _unknown(path: Path) -> RenderError:
    ending = path.suffix.lower()
    better = INSTEAD.get(ending) or nearest(ending, ENDINGS) or ".svg"
    found = f"{path.suffix!r} is not a form of drawing" if ending else "the file's ending says the form of a drawing"
    hint = str(path.with_suffix(better)) if path.name else "graph.svg"
    return _failure(path, found, expected=f"one of {', '.join(ENDINGS)}", hint=hint)


def _needs_dot(path: Path, ending: str, reason: str) -> RenderError:
    mend = f"{INSTALL}, or " if shutil.which("dot") is None else ""
    return _failure(path, f"{ending} needs Graphviz, but {reason}", hint=f"{mend}{path.with_suffix('.svg')}")


def _failure(path: Path, message: str, expected: str = "", hint: str = "") -> RenderError:
    return RenderError(
        [Diagnostic(code="render", field=(), message=message, expected=expected, hint=hint, where=str(path))]
    )
