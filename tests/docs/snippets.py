"""Find the code blocks of a Markdown page and run them in order, as a reader would.

Blocks marked ``python`` share one namespace. In blocks marked ``console`` every line that starts with ``$ betty`` is
run; the lines below it are its expected output, compared up to white space, with ``...`` for anything. A comment in
the line before a block changes what happens:

- ``<!-- file: NAME -->`` writes a block of any language to a file in the current folder, instead of running it,
- ``<!-- not executed: REASON -->`` leaves the block out; the reason must be given,
- ``<!-- exit code: N -->`` expects the commands of a console block to end with ``N`` instead of 0.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import forks

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<info>[^`]*)$")
SKIP = re.compile(r"<!--\s*not executed:\s*(?P<reason>.*?)\s*-->")
EXIT = re.compile(r"<!--\s*exit code:\s*(?P<code>\d+)\s*-->")
FILE = re.compile(r"<!--\s*file:\s*(?P<name>[\w./-]+)\s*-->")
LANGUAGES = ("python", "console")
SHELL = frozenset("|<>&;*?$`~")
"""What only a shell understands."""


class BrokenSnippetError(Exception):
    """A block that does not do what its page says; the message names the page and the line."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block: where its first line of code stands, and what it is."""

    page: Path
    line: int
    language: str
    code: str
    skipped: bool = False
    exit_code: int = 0
    file: str = ""
    """Name of the file that the block is written to; empty for a block that is run."""

    def broken(self, why: str) -> BrokenSnippetError:
        return BrokenSnippetError(f"{self.page}:{self.line}: {why}")


@dataclass(frozen=True, kw_only=True)
class Command:
    """One ``$ betty ...`` line and the output that the page shows below it."""

    text: str
    output: str


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of ``page`` that are run (``python`` and ``console``) or written to a file, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    position, before = 0, ""
    while position < len(lines):
        opened = FENCE.match(lines[position])
        if not opened:
            before = lines[position].strip() or before
            position += 1
            continue
        end = _end(lines, position, opened["ticks"])
        language = (opened["info"].split() or [""])[0]
        if language in LANGUAGES or FILE.search(before):
            code = "\n".join(line.removeprefix(opened["indent"]) for line in lines[position + 1 : end])
            yield _block(page, position + 2, language, code, before)
        position, before = end + 1, ""


def _end(lines: list[str], start: int, ticks: str) -> int:
    closing = (n for n in range(start + 1, len(lines)) if re.fullmatch(rf" *{re.escape(ticks)}`*", lines[n].rstrip()))
    return next(closing, len(lines))


def _block(page: Path, line: int, language: str, code: str, before: str) -> Block:
    skip, exit_code, file = SKIP.search(before), EXIT.search(before), FILE.search(before)
    block = Block(
        page=page,
        line=line,
        language=language,
        code=code,
        skipped=skip is not None,
        exit_code=int(exit_code["code"]) if exit_code else 0,
        file=file["name"] if file else "",
    )
    if skip and not skip["reason"]:
        raise block.broken("a block that is not executed needs a reason")
    return block


def commands(block: Block) -> list[Command]:
    """The commands of a console block; a trailing backslash continues a command on the next line."""
    found: list[tuple[str, list[str]]] = []
    for line in block.code.splitlines():
        if found and found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0][:-1].rstrip() + " " + line.removeprefix(">").strip(), [])
        elif line.startswith("$ "):
            found.append((line[2:].strip(), []))
        elif found:
            found[-1][1].append(line)
    if not found or any(text.split()[0] != "betty" for text, _ in found):
        raise block.broken("a console block must hold `$ betty ...` lines, and no other commands")
    return [Command(text=text, output="\n".join(output).strip()) for text, output in found]


def run_page(page: Path) -> int:
    """Run every block of ``page`` in the current folder; the number of blocks that were run.

    Raises:
        BrokenSnippetError: The first block that fails.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    chosen = [block for block in blocks(page) if not block.skipped]
    for block in chosen:
        if block.file:
            Path(block.file).write_text(block.code + "\n", encoding="utf-8")
        elif block.language == "python":
            _run_python(block, namespace)
        else:
            for command in commands(block):
                _run_command(block, command)
    return len(chosen)


def _run_python(block: Block, namespace: dict[str, Any]) -> None:
    source = "\n" * (block.line - 1) + block.code  # so that a traceback shows the line of the page
    try:
        exec(compile(source, str(block.page), "exec"), namespace)
    except Exception as error:
        raise block.broken(f"{type(error).__name__}: {error}") from error


def _run_command(block: Block, command: Command) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}
    if SHELL & set(command.text):
        done = subprocess.run(command.text, shell=True, capture_output=True, text=True, env=environment, check=False)
    else:
        words = shlex.split(command.text)
        done = forks.start(forks.command, words, folder=Path.cwd(), environment=environment).finish(timeout=240)
    shown = done.stdout + done.stderr
    if done.returncode != block.exit_code:
        raise block.broken(f"`{command.text}` ended with {done.returncode}, not {block.exit_code}:\n{shown}")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if command.output and not doctest.OutputChecker().check_output(command.output + "\n", shown, flags):
        raise block.broken(f"`{command.text}` printed\n{shown}\nwhere the page shows\n{command.output}")


def main() -> None:
    """Run the page that is named on the command line, as in a notebook: imports start at the current folder."""
    sys.path.insert(0, "")
    try:
        run_page(Path(sys.argv[1]))
    except BrokenSnippetError as error:
        sys.exit(str(error))
