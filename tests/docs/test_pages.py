"""The pages keep up with the code: every method, every pass and every field has its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from betty.cli.app import app
from betty.ir.compile import PIPELINE
from betty.ir.methods import ESTIMATORS, INVERSES, PRESETS, PRODUCTS, TRAJECTORIES
from docs._ext.cli_reference import COMMANDS, command_reference

DOCS = Path(__file__).parents[2] / "docs"


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", (DOCS / page).read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize(
    "heading",
    [
        *(f"`{name}`" for name in PRESETS),
        *(f"Inverse `{name}`" for name in INVERSES),
        *(f"Product `{name}`" for name in PRODUCTS),
        *(f"Trajectory `{name}`" for name in TRAJECTORIES),
        *(f"Estimator `{name}`" for name in ESTIMATORS),
    ],
)
def test_method_has_a_section(heading: str) -> None:
    assert heading in headings("methods.md")


@pytest.mark.parametrize(
    ("directive", "name"),
    [
        *(("inverse", name) for name in INVERSES),
        *(("product", name) for name in PRODUCTS),
        *(("trajectory", name) for name in TRAJECTORIES),
        *(("estimator", name) for name in ESTIMATORS),
    ],
)
def test_method_has_a_table_of_options(directive: str, name: str) -> None:
    assert f"```{{method-options}} {directive} {name}\n" in (DOCS / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [one.name for one in PIPELINE])
def test_pass_has_a_section(name: str) -> None:
    assert f"`{name}`" in headings("passes.md")


def test_passes_stand_in_the_order_of_the_pipeline() -> None:
    names = [f"`{one.name}`" for one in PIPELINE]
    assert [heading for heading in headings("passes.md") if heading in names] == names


def test_every_page_is_in_a_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL) for line in block.split("\n")}
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md") if "_build" not in page.parts}
    assert pages - {"index"} <= listed


def test_every_command_is_on_the_page_of_the_command_line() -> None:
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    for command in app.registered_commands:
        assert f"```{{cli-reference}} {command.name}\n" in page


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_spelled_as_the_command_spells_them(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    names = re.findall(r"^\| `(--[a-z-]+)", command_reference(command), flags=re.MULTILINE)
    assert set(names) == set(re.findall(r"(?<![\w-])--[a-z-]+", shown)) - {"--help"}
