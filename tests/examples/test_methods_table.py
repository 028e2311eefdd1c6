"""The table of methods on hyper-cleaning, with few iterations."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from betty.ir.methods import PRESETS
from betty.spec.beside import import_beside

CLEANING = Path(__file__).parents[2] / "examples" / "hyper_cleaning"
LEFT_OUT = {"dense", "forward_mode", "reinforce"}
"""The page says why."""


@pytest.fixture(scope="module")
def methods() -> ModuleType:
    return import_beside(CLEANING, "methods")


def test_two_rows(methods: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """The exact method against the one that looks at a single update."""
    few = ["--iterations", "10", "--seeds", "0", "--points", "1", "--blocks", "1"]
    methods.main(["--methods", "unrolled", "identity", *few])
    _, _, *rows = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells] == ["unrolled", "identity"]
    (_, _, exact, rounding, *_), (_, _, cosine, error, *_) = cells
    assert float(exact) == 1.0
    assert float(rounding) < 1e-4
    assert 0.05 < float(cosine) < 0.6
    assert float(error) > 0.5
    assert all(float(cell) > 0 for row in cells for cell in row[4:])
    assert all(5 < float(row[1].split()[0]) < 60 for row in cells)


def test_every_preset_is_in_the_table_or_left_out(methods: ModuleType) -> None:
    shown = [methods.engine(method).graph.edges[0].method.to_text() for method in methods.METHODS.values()]
    assert len(set(shown)) == len(shown)
    alone = {text.partition("(")[0] for text in methods.METHODS.values() if not text.startswith("{")}
    named = {text.partition("name: ")[2].rstrip("}").partition(",")[0] for text in methods.METHODS.values()}
    assert set(PRESETS) - alone - named == LEFT_OUT
