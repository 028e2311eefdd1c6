"""``betty value``: which training examples matter, to queries or to themselves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from betty.cli.options import Overrides, SpecPath, Trusted
from betty.cli.run import raised
from betty.ir.diagnostics import BettyError
from betty.signals import CODES, listening

if TYPE_CHECKING:
    from betty.valuation import Valuation
    from betty.valued import Valued


def value_command(  # noqa: PLR0913 - one argument an option
    spec: SpecPath,
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="What makes the queries' data, such as program:test_set; the spec's without.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Examples to name at either end.")] = 10,
    own: Annotated[
        bool, typer.Option("--self", help="Self-influence instead: likely mislabelled or atypical examples.")
    ] = False,
    relative: Annotated[
        bool, typer.Option("--relative", help="Divide by the root of self-influence, which takes outliers down.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Take the trained model from the folder of a run, or from a file, instead of training it.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where results go; runs/NAME-N without.", show_default=False)
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where gradients are stored; values in the run's folder without.", show_default=False
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page that shows queries with their examples.", show_default=False),
    ] = None,
    retrainings: Annotated[
        int, typer.Option(min=0, help="Trainings on parts of the data, by which the report tells how good scores are.")
    ] = 0,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the stored gradients as .npz, .parquet or a datasets folder.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    trust: Trusted = [],  # noqa: B006
) -> None:
    """Value the training examples of a spec: train or load the model, store gradients, score.

    Scores are derivatives of a query's loss by the weight of an example: a negative one says that more of the example
    lowers the loss. What the store has already is not computed again.
    """
    from betty.valued import Valued

    valued = Valued(spec, overrides, trust, queries)
    if not own and valued.query_batches() is None:
        raise BettyError("the spec has no data of queries: name some, --queries program:test_set, or ask with --self")
    speaks = valued.engine.is_rank_zero()
    if speaks and not as_json:
        print(valued.explain(), flush=True)
    folder = _trained(valued, weights, out, spec)
    with _named(spec.parent):
        valuation = valued.valuation(store or folder / "values")
        with _shown(valued, quiet=not speaks) as progress:
            valuation.log(valued.train_batches(), progress=progress)
        answer = _own(valuation, top) if own else _asked(valued, valuation, top, relative)
        if speaks:
            print(json.dumps(answer, indent=1) if as_json else "")
            if not as_json:
                _tell(answer, valuation, store or folder / "values")
        if export is not None and speaks:
            valuation.export(export)
            _say(f"stored gradients written to {export}", as_json)
        if report is not None and speaks:
            from betty.trusting import write_report

            write_report(valued, valuation, report, top=top, retrainings=retrainings)
            _say(f"report written to {report}", as_json)


def _trained(valued: Valued, weights: Path | None, out: Path | None, spec: Path) -> Path:
    """Train the model or load it; the folder of the run."""
    if weights is not None:
        valued.load(weights)
        return out or (weights if weights.is_dir() else weights.parent)
    from betty.observers.progress import Bar, Lines

    console = Console(stderr=True)
    with _named(spec.parent), listening(hard=True):
        observers = [Bar(console), Lines(console)] if valued.engine.is_rank_zero() else []
        result = valued.engine.run(out=out, write=True, observers=observers, values=False)
    if result.reason in CODES:
        print(f"interrupted; to go on: betty run --resume {result.folder}", file=sys.stderr)
        raise typer.Exit(CODES[result.reason])
    return valued.folder_of(result)


def _own(valuation: Valuation, top: int) -> dict[str, Any]:
    """The examples of highest self-influence."""
    found, losses = valuation.self_influence(), valuation.losses
    order = found.argsort(descending=True)[:top]
    return {
        "examples": [
            {"id": valuation.ids[place].tolist(), "self_influence": float(found[place]), "loss": float(losses[place])}
            for place in order.tolist()
        ]
    }


def _asked(valued: Valued, valuation: Valuation, top: int, relative: bool) -> dict[str, Any]:
    return {"queries": list(valuation.top(valued.query_batches(), top, relative=relative).rows())}


def _tell(answer: dict[str, Any], valuation: Valuation, store: Path) -> None:
    console = Console(highlight=False)
    if "examples" in answer:
        table = Table("example", "self-influence", "loss", box=None, header_style="bold", pad_edge=False)
        for one in answer["examples"]:
            table.add_row(_id(one["id"]), f"{one['self_influence']:.4g}", f"{one['loss']:.4g}")
    else:
        table = Table("query", "", "examples (score)", box=None, header_style="bold", pad_edge=False)
        for one in answer["queries"][:SHOWN]:
            for side in ("helpful", "harmful"):
                named = "  ".join(f"{_id(pair['id'])} ({pair['score']:+.2g})" for pair in one[side])
                table.add_row(str(one["query"]) if side == "helpful" else "", side, named)
    console.print(table)
    if len(answer.get("queries", [])) > SHOWN:
        print(f"... and {len(answer['queries']) - SHOWN} more queries: --json has them all")
    if left := valuation.left_out:
        print("left out: " + "; ".join(f"{name}: {why}" for name, why in left.items()))
    print(f"\n{len(valuation.ids)} examples, {valuation.bytes_on_disk / 1e6:.1f} MB of gradients in {store}")


SHOWN = 10
"""Queries that are printed."""


def _id(found: int | list[int]) -> str:
    return ":".join(map(str, found)) if isinstance(found, list) else str(found)


def _say(text: str, as_json: bool) -> None:
    print(text, file=sys.stderr if as_json else sys.stdout)


@contextmanager
def _shown(valued: Valued, *, quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """A bar for each pass over the examples, on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True, quiet=quiet), transient=True)
    tasks: dict[str, Any] = {}

    def tell(what: str, done: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=valued.train_batches().examples or None)
        bar.update(tasks[what], completed=done)

    if quiet or not bar.console.is_terminal:
        yield lambda what, done: None
        return
    with bar:
        yield tell


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """What the user's own code raises, with the lines of the user's files that led to it."""
    try:
        yield
    except (BettyError, typer.Exit):
        raise
    except Exception as error:
        print(raised(error, folder), file=sys.stderr)
        raise typer.Exit(1) from None
