"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RENDER_DEFAULT = ".svg"
"""Stands for ``<name of the program>.svg``."""

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Override a field of the spec, such as problems.classifier.optimizer.lr=0.01; may be repeated.",
        show_default=False,
    ),
]
Trusted = Annotated[
    list[str],
    typer.Option(
        "--trust",
        metavar="PACKAGE",
        help="Let targets come from this installed package too; may be repeated.",
        show_default=False,
    ),
]
