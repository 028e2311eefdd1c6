"""``{cli-reference} COMMAND``: usage, arguments and options of a command, from the signature of its function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.models import ArgumentInfo, OptionInfo

from betty.cli.app import app

COMMANDS: dict[str, Callable[..., Any]] = {
    one.name or "": one.callback for one in app.registered_commands if one.callback is not None
}


def command_reference(name: str) -> str:
    """What ``betty NAME --help`` says, as Markdown."""
    hints = get_type_hints(COMMANDS[name], include_extras=True)
    found = {key: get_args(hint) for key, hint in hints.items() if get_origin(hint) is Annotated}
    arguments = [(info.metavar or key, info) for key, (_, info) in found.items() if isinstance(info, ArgumentInfo)]
    options = [(_spelling(key, *one), one[1]) for key, one in found.items() if isinstance(one[1], OptionInfo)]
    usage = " ".join(["betty", name, *(["[OPTIONS]"] if options else []), *(metavar for metavar, _ in arguments)])
    text = f"```text\n{usage}\n```\n\n{inspect.getdoc(COMMANDS[name]) or ''}\n\n"
    rows = [f"| `{spelling}` | {' '.join((info.help or '').split())} |" for spelling, info in [*arguments, *options]]
    return text + "\n".join(["| Argument or option | Meaning |", "| --- | --- |", *rows] if rows else [])


def _spelling(name: str, kind: Any, info: OptionInfo) -> str:
    """``--emit graph/plan`` or ``--out FOLDER``; flags stand alone."""
    # Inside Annotated the first name stands where typer otherwise has the default.
    given = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    names = ", ".join(given or [f"--{name.replace('_', '-')}"])
    if kind is bool:
        return names
    choices = [item.value for one in (kind, *get_args(kind)) if _is_choice(one) for item in one]
    return f"{names} {info.metavar or '/'.join(choices) or 'VALUE'}"


def _is_choice(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Enum)


class CliReference(SphinxDirective):
    """Insert :func:`command_reference` for ``{cli-reference} compile``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        self.env.note_dependency(inspect.getfile(COMMANDS[name]))
        return self.parse_text_to_nodes(command_reference(name))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("cli-reference", CliReference)
    return {"parallel_read_safe": True}
