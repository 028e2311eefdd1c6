"""``betty run``: train, with progress, logs and a folder of results."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from betty.cli.options import Overrides, SpecPath, Trusted
from betty.ir.diagnostics import BettyError

if TYPE_CHECKING:
    from betty.engine import Engine
    from betty.result import Result


def run_command(
    spec: SpecPath,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where results go; runs/NAME-N without.", show_default=False)
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure every instruction and print the plan with times and memory.")
    ] = False,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    trust: Trusted = [],  # noqa: B006
) -> None:
    """Compile a spec and run its plan.

    Ctrl-C ends the run after the step at hand; what has been learned is written, and the exit code is 130.
    """
    from betty.engine import Engine

    engine = Engine(spec, overrides=overrides, trust=trust)
    print(engine.explain(), flush=True)
    result = _run(engine, out, profile, spec.parent)
    if result.profile:
        print(f"\n{result.profile}")
    print(f"\n{result}")
    print(f"written to {result.folder}")
    if result.reason == "interrupted":
        raise typer.Exit(130)


def _run(engine: Engine, out: Path | None, profile: bool, folder: Path) -> Result:
    from betty.observers.progress import Bar, Lines

    console = Console(stderr=True)
    try:
        return engine.run(out=out, write=True, profile=profile, observers=[Bar(console), Lines(console)])
    except BettyError:
        raise
    except Exception as error:
        print(raised(error, folder), file=sys.stderr)
        raise typer.Exit(1) from None


def raised(error: BaseException, folder: Path) -> str:
    """What the user's own code has raised: the error, the lines of the user's files that led to it, and the step."""
    home = folder.resolve()
    steps = [step for step in traceback.extract_tb(error.__traceback__) if Path(step.filename).is_relative_to(home)]
    lines = [f"{type(error).__name__}: {error}"]
    lines += [f"  at {Path(step.filename).name}:{step.lineno}, in {step.name}: {step.line}" for step in steps]
    lines += [f"  {note}" for note in getattr(error, "__notes__", [])]
    if not steps:  # not in the user's files: then all of it is needed to find the cause
        lines.append("".join(traceback.format_exception(error)).rstrip())
    return "\n".join(lines)
