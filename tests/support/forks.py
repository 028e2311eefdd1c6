"""Start a program from a process that has imported what it needs: a start then takes milliseconds instead of seconds.

Each program still runs in a process of its own, with its own arguments, folder, environment and output, and starts
from the same state: nothing has been computed before it. What another start of the interpreter would add is the test
of the imports themselves, and tests of that use ``subprocess``.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.support.preloaded"])
"""Imported once, in the process that the others are copies of."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A program that runs, and where its output goes."""

    process: ForkServerProcess
    arguments: tuple[str, ...]
    output: Path

    def finish(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Wait for the end; what it has printed.

        Raises:
            subprocess.TimeoutExpired: It did not end in ``timeout`` seconds, and has been killed.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        out, err = ((self.output / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        rmtree(self.output)
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, out, err)


def start(
    body: Callable[[], object], arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None
) -> Started:
    """Run ``body`` in a new process, as if called with ``arguments`` as ``sys.argv`` in ``folder``."""
    output = Path(mkdtemp(prefix="forked-"))
    given = dict(os.environ if environment is None else environment)
    process = FORKS.Process(target=_become, args=(body, list(arguments), str(folder), given, str(output)))
    with chdir(ROOT):  # where the first start of all finds the modules to import
        process.start()
    return Started(process=process, arguments=tuple(arguments), output=output)


def script() -> None:
    """The body that runs the file ``sys.argv[0]`` as ``python FILE`` does."""
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


def command() -> None:
    """The body of the ``betty`` command."""
    from betty.cli import main

    main()


def _become(
    body: Callable[[], Any], arguments: list[str], folder: str, environment: dict[str, str], output: str
) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was not forked itself
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background, it is ignored
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    for name, number in (("stdout", 1), ("stderr", 2)):
        opened = os.open(Path(output, name), os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
        setattr(sys, name, open(number, "w", encoding="utf-8", buffering=1, closefd=False))  # noqa: SIM115
    try:
        body()
    except Exception:
        traceback.print_exc()
        sys.exit(1)
