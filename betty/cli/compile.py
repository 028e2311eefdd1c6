"""``betty compile``: check a spec, explain its plan, draw its graph."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from betty.cli.options import RENDER_DEFAULT, Overrides, SpecPath, Trusted
from betty.ir.compile import Compiled, compile_graph


class Form(StrEnum):
    """Which textual IR to print."""

    GRAPH = "graph"
    PLAN = "plan"


def compile_command(
    spec: SpecPath,
    render: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE]",
            help="Draw the graph: .svg, .png, .pdf, .dot or .mmd by the file's ending; NAME.svg without a file.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    emit: Annotated[Form | None, typer.Option(help="Print the textual IR, which can be parsed again.")] = None,
    static: Annotated[
        bool, typer.Option("--static", help="Import nothing: no targets, no torch; sizes are unknown.")
    ] = False,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    trust: Trusted = [],  # noqa: B006
) -> None:
    """Check a spec, explain how it will be run, and draw it.

    All mistakes are reported at once, each with its place in the file; the exit code is then 2.
    """
    compiled, time = _compiled(spec, overrides, trust, static)
    print(_text(compiled, as_json, emit))
    if time and not as_json and emit is None:
        print(time)
    if render is not None:
        from betty.render import render as draw

        path = f"{compiled.graph.name}.svg" if render == RENDER_DEFAULT else render
        drawn = draw(compiled.graph, Path(path))
        typer.echo(f"\ngraph drawn in {drawn.path}", err=True)
        if drawn.note:
            typer.echo(drawn.note, err=True)


def _compiled(spec: Path, overrides: list[str], trust: list[str], static: bool) -> tuple[Compiled, str]:
    """The graph and the plan, and how long it is expected to take to value examples, where it does."""
    if static:
        from betty.spec.frontend import compile_source

        return compile_graph(compile_source(spec, overrides, trust, static=True).graph), ""
    from betty.engine import Engine

    engine = Engine(spec, overrides=overrides, trust=trust)
    return engine.compiled, engine.weighted.time_text(engine.plan) if engine.weighted is not None else ""


def _text(compiled: Compiled, as_json: bool, emit: Form | None) -> str:
    if as_json:
        from betty.ir.summary import summary

        return json.dumps(summary(compiled.plan, compiled.graph), indent=2)
    if emit is not None:
        from betty.ir.text import graph_to_text, plan_to_text

        return (graph_to_text(compiled.graph) if emit is Form.GRAPH else plan_to_text(compiled.plan)).rstrip()
    from betty.ir.explain import explain

    return explain(compiled.plan, compiled.graph)
