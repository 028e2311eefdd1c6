"""The application: its commands, and what a mistake looks like on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from betty.cli.check import check_command
from betty.cli.compile import compile_command
from betty.cli.options import RENDER_DEFAULT
from betty.cli.run import run_command
from betty.cli.schema import schema_command
from betty.cli.value import value_command
from betty.ir.diagnostics import BettyError, GraphError, SpecError

BARE = {"--render": RENDER_DEFAULT, "--resume": ""}
"""Options that may stand without a value, and what they mean then."""

app = typer.Typer(
    name="betty",
    help="A compiler for gradient-based multilevel optimization in PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compile")(compile_command)
app.command("check")(check_command)
app.command("run")(run_command)
app.command("value")(value_command)
app.command("schema")(schema_command)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from betty import __version__

        print(__version__)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a mistake of the user ends with its report and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=spelled_out(given), prog_name="betty")
    except BettyError as error:
        # Of several processes the first speaks for all, where all have found the same.
        if os.environ.get("RANK", "0") == "0" or not isinstance(error, SpecError | GraphError):
            print("\n  ".join([error.to_text(), *getattr(error, "__notes__", ())]), file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has gone, as `betty compile ... | head` does
        sys.stderr.close()
        sys.exit(141)


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """``--render`` and ``--resume`` may stand without a file; spelled out, their defaults are ordinary values."""
    found = []
    for index, argument in enumerate(arguments):
        after = arguments[index + 1] if index + 1 < len(arguments) else "-"
        bare = argument in BARE and (after.startswith("-") or after.endswith((".yaml", ".yml")))
        found.append(f"{argument}={BARE[argument]}" if bare else argument)
    return found
