"""Every block of code in the README and in the documentation runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.docs import snippets
from tests.docs.snippets import BrokenSnippetError, blocks, commands, run_page
from tests.support import forks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("README.md"))]
WITH_CODE = [page for page in PAGES if "_build" not in page.parts and any(not block.skipped for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("runs", "__pycache__"))
    done = forks.start(snippets.main, ["snippets", str(page)], folder=tmp_path).finish(timeout=280)
    assert done.returncode == 0, done.stderr


def imported() -> None:
    print("torch._dynamo" in sys.modules, sys.argv, Path.cwd())


def test_pages_start_with_what_is_imported(tmp_path: Path) -> None:
    """Else every command of a page would import torch again, unnoticed."""
    done = forks.start(imported, ["program", "x"], folder=tmp_path).finish(timeout=60)
    assert done.stdout == f"True ['program', 'x'] {tmp_path}\n", done.stderr


def page_of(tmp_path: Path, *lines: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


def test_blocks_share_names_and_keep_their_lines(tmp_path: Path) -> None:
    page = page_of(tmp_path, "# Page", "```python", "x = 1", "```", "text", "```python", "", "x + missing", "```")
    assert [block.line for block in blocks(page)] == [3, 7]
    with pytest.raises(BrokenSnippetError, match=r"page\.md:7: NameError: name 'missing'"):
        run_page(page)


def test_good_page_runs_every_block(tmp_path: Path) -> None:
    page = page_of(
        tmp_path, "```python", "x = 1", "```", "````python", "assert x == 1", "````", "```yaml", "a: b", "```"
    )
    assert run_page(page) == 2


@pytest.mark.parametrize("code", ["1 / 0", "assert False", "def", "import no_such_module_here"])
def test_broken_python_fails(tmp_path: Path, code: str) -> None:
    with pytest.raises(BrokenSnippetError, match=r"page\.md:2: "):
        run_page(page_of(tmp_path, "```python", code, "```"))


def test_broken_command_fails(tmp_path: Path) -> None:
    with pytest.raises(BrokenSnippetError, match="ended with"):
        run_page(page_of(tmp_path, "```console", "$ betty no-such-command", "```"))


def test_exit_code_may_be_expected(tmp_path: Path) -> None:
    assert run_page(page_of(tmp_path, "<!-- exit code: 2 -->", "```console", "$ betty no-such-command", "```")) == 1


def test_output_is_compared(tmp_path: Path) -> None:
    good = ("```console", "$ betty --help", "...Usage...", "```")
    assert run_page(page_of(tmp_path, *good)) == 1
    with pytest.raises(BrokenSnippetError, match="where the page shows"):
        run_page(page_of(tmp_path, "```console", "$ betty --help", "something else", "```"))


@pytest.mark.parametrize("line", ["make test", "$ make test", "$ rm -r runs"])
def test_console_holds_betty_only(tmp_path: Path, line: str) -> None:
    with pytest.raises(BrokenSnippetError, match="must hold"):
        run_page(page_of(tmp_path, "```console", line, "```"))


def test_command_continues_over_a_backslash(tmp_path: Path) -> None:
    (block,) = blocks(page_of(tmp_path, "```console", "$ betty run a.yaml \\", ">   --out b", "done", "```"))
    assert [(one.text, one.output) for one in commands(block)] == [("betty run a.yaml --out b", "done")]


def test_skipping_needs_a_reason(tmp_path: Path) -> None:
    assert run_page(page_of(tmp_path, "<!-- not executed: needs two GPUs -->", "", "```python", "1 / 0", "```")) == 0
    with pytest.raises(BrokenSnippetError, match="needs a reason"):
        run_page(page_of(tmp_path, "<!-- not executed: -->", "```python", "1 / 0", "```"))
    with pytest.raises(BrokenSnippetError, match="ZeroDivisionError"):
        run_page(page_of(tmp_path, "<!-- not executed: reason -->", "text", "```python", "1 / 0", "```"))


def test_block_is_written_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = ("<!-- file: spec.yaml -->", "", "```yaml", "a: b", "```")
    program = ("<!-- file: broken.py -->", "```python", "1 / 0", "```")  # would fail if it were run
    assert run_page(page_of(tmp_path, *spec, *program)) == 2
    assert Path("spec.yaml").read_text(encoding="utf-8") == "a: b\n"
    assert Path("broken.py").read_text(encoding="utf-8") == "1 / 0\n"
