"""``betty check``: how exact the method of every edge is, what it costs, and which one to take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from betty.cli.options import Overrides, SpecPath, Trusted
from betty.cli.run import raised
from betty.ir.diagnostics import BettyError

if TYPE_CHECKING:
    from betty.checking import Report
    from betty.engine import Engine


class Truth(StrEnum):
    """What hypergradients are compared with."""

    AUTO = "auto"
    SOLUTION = "solution"
    UNROLLED = "unrolled"


def check_command(  # noqa: PLR0913 - one argument an option
    spec: SpecPath,
    points: Annotated[int, typer.Option(min=1, help="Points of training at which methods are compared.")] = 3,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Iterations of training; 300, or 10 steps of the slowest upper, or as many as the spec has, without.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the random states; the spec's without.", show_default=False)
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Relative error that is exact enough for a recommendation.")
    ] = 0.05,
    reference: Annotated[
        Truth,
        typer.Option(
            help="Compare with the derivative of the lower's solution, or of its unrolled updates; auto takes what "
            "the edge's own method stands for."
        ),
    ] = Truth.AUTO,
    most_steps: Annotated[
        float,
        typer.Option(min=0.0, help="Leave out methods whose response is expected to take more steps of the lower."),
    ] = 1000.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON document.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Put the recommended methods into the spec, comments and layout kept.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw error against cost: .png, .svg or .pdf.", show_default=False),
    ] = None,
    retrainings: Annotated[
        int,
        typer.Option(min=0, help="Of a spec that values examples: how often it is trained again on parts of its data."),
    ] = 0,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    trust: Trusted = [],  # noqa: B006
) -> None:
    """Compare the hypergradient of every edge by every method with an exact one, and recommend a method.

    A copy of the program is trained for a while; at several points every method is compared with a reference in
    double precision, and timed beside the lower's own steps. Flags are findings, not errors: the exit code is 0.

    Of a spec that values examples, scores are compared with exact ones, and with what training again gives.
    """
    from betty.engine import Engine

    if plot is not None:
        _check_plot(plot)
    engine = Engine(spec, overrides=overrides, trust=trust)
    if engine.weighted is not None:
        _values(spec, retrainings, seed or 0, as_json, overrides, trust)
        return
    with _telling() as tell:
        report = _checked(
            engine,
            tell,
            spec.parent,
            iterations=iterations,
            points=points,
            seed=seed,
            tolerance=tolerance,
            reference=reference.value,
            most_steps=most_steps,
        )
    _print(report, as_json)
    if plot is not None:
        report.plot(plot)
        typer.echo(f"\ndrawn in {plot}", err=True)
    if write:
        _write(report, spec)


def _checked(engine: Engine, tell: Callable[[str], None], folder: Path, **asked: Any) -> Report:
    try:
        return engine.check(progress=tell, **asked)
    except BettyError:
        raise
    except Exception as error:
        print(raised(error, folder), file=sys.stderr)
        raise typer.Exit(1) from None


def _values(spec: Path, retrainings: int, seed: int, as_json: bool, overrides: list[str], trust: list[str]) -> None:
    from betty.trusting import trusted
    from betty.valued import Valued

    valued = Valued(spec, overrides, trust)
    try:
        with _telling() as tell:
            tell("training")
            valued.train()
            valuation = valued.valuation().log(valued.train_batches(), progress=lambda what, done: tell(what))
            found = trusted(
                valued,
                valuation,
                retrainings=retrainings,
                seed=seed,
                progress=lambda what, done: tell(f"{what} {done} of {retrainings}"),
            )
    except BettyError:
        raise
    except Exception as error:
        print(raised(error, spec.parent), file=sys.stderr)
        raise typer.Exit(1) from None
    print(found.to_json() if as_json else found)


@contextmanager
def _telling() -> Iterator[Callable[[str], None]]:
    """What is being done, on one line of a terminal that is empty again afterwards; nothing elsewhere."""
    stream = sys.stderr
    if not stream.isatty():
        yield lambda text: None
        return
    # No spinner: a thread that draws would disturb the clock.
    try:
        yield lambda text: print(f"\r\x1b[2K{text[:78]}", end="", file=stream, flush=True)
    finally:
        print("\r\x1b[2K", end="", file=stream, flush=True)


def _print(report: Report, as_json: bool) -> None:
    from betty.checking.table import show

    if as_json:
        print(report.to_json())
    elif sys.stdout.isatty():
        show(report.check, Console())
    else:
        print(report)


def _check_plot(path: Path) -> None:
    """Say before the work that its picture cannot be drawn."""
    from betty.checking.plotting import check_possible

    check_possible(path)


def _write(report: Report, spec: Path) -> None:
    from betty.checking import write_methods

    written = write_methods(report.check, spec)
    if not written.changed:
        typer.echo(f"\n{spec} is as recommended already", err=True)
    for edge, method in written.changed.items():
        typer.echo(f"\n{spec}: {edge} now has method: {method}", err=True)
