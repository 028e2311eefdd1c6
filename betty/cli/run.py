"""``betty run``: train, with progress, logs and a folder of results."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from betty.cli.options import Overrides, Trusted
from betty.ir.diagnostics import BettyError
from betty.signals import CODES, listening

if TYPE_CHECKING:
    from betty.backends.torch.trainer import Observer
    from betty.engine import Engine
    from betty.result import Result


def run_command(
    spec: Annotated[
        Path | None, typer.Argument(metavar="SPEC", help="The spec, a YAML file.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where results go; runs/NAME-N without.", show_default=False)
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="[FOLDER]",
            help="Go on with an interrupted run, the last one below runs without a FOLDER; without a SPEC, its own.",
            show_default=False,
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--resume-anyway", help="Go on although the program is not what it was.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure every instruction and print the plan with times and memory.")
    ] = False,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    trust: Trusted = [],  # noqa: B006
) -> None:
    """Compile a spec and run its plan.

    Ctrl-C, or SIGTERM, ends the run after the iteration at hand: its state is saved where the spec sets checkpoints,
    what has been learned is written, and the exit code is 130, or 143. A second one ends it at once.
    """
    from betty.engine import Engine

    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) and resume is None:
        # torchrun has started the processes again, after one of them has ended.
        resume, out = str(out or ""), None
    if resume is None and not anyway:
        if spec is None:
            raise BettyError("name a spec: betty run SPEC; or go on with a run: betty run --resume")
        engine = Engine(spec, overrides=overrides, trust=trust)
        _tell(engine, engine.explain())
        command = {"spec": str(spec.resolve()), "overrides": list(overrides), "trust": list(trust)}
        result = _run(engine, lambda observers: _begun(engine, out, profile, observers, command), spec.parent)
    else:
        if out is not None:
            raise BettyError(
                "--out names the folder of a new run; a run that goes on stays in its own, --resume FOLDER"
            )
        engine, result = _resume(spec, resume or None, anyway, profile, overrides, trust)
    if result.folder is not None:  # of several processes the first speaks for all
        if result.profile:
            print(f"\n{result.profile}")
        print(f"\n{result}")
        print(f"written to {result.folder}")
    if result.reason in CODES:
        if result.folder is not None:
            print(_how_to_go_on(engine, result))
        raise typer.Exit(CODES[result.reason])


def _resume(
    spec: Path | None, folder: str | None, anyway: bool, profile: bool, overrides: list[str], trust: list[str]
) -> tuple[Engine, Result]:
    from betty.engine import Engine
    from betty.resuming import latest_run
    from betty.runfolder import RunFolder

    if spec is None:
        path = latest_run(Path("runs")) if folder is None else Path(folder)
        command = RunFolder(path).command()
        spec, folder = Path(command["spec"]), str(path)
        overrides, trust = [*command["overrides"], *overrides], [*command["trust"], *trust]
    engine = Engine(spec, overrides=overrides, trust=trust)
    _tell(engine, engine.explain())

    def go_on(observers: Sequence[Observer]) -> Result:
        return engine.resume(folder, anyway=anyway, profile=profile, observers=observers)

    return engine, _run(engine, go_on, spec.parent)


def _how_to_go_on(engine: Engine, result: Result) -> str:
    if engine.spec.engine.checkpoint is None:
        return "the spec sets no checkpoints (engine.checkpoint), so that the run cannot be gone on with"
    return f"to go on: betty run --resume {result.folder}"


def _tell(engine: Engine, text: str) -> None:
    """Of several processes the first speaks for all."""
    if engine.is_rank_zero():
        print(text, flush=True)


def _begun(
    engine: Engine, out: Path | None, profile: bool, observers: Sequence[Observer], command: dict[str, Any]
) -> Result:
    return engine.run(out=out, write=True, command=command, profile=profile, observers=observers)


def _run(engine: Engine, start: Callable[[Sequence[Observer]], Result], folder: Path) -> Result:
    from betty.observers.progress import Bar, Lines

    console = Console(stderr=True)
    try:
        with listening(hard=True):
            return start([Bar(console), Lines(console)] if engine.is_rank_zero() else [])
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
