"""``betty check``, as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from betty.cli import main
from betty.spec.load import load
from tests.engine.conftest import spec

__all__ = ["spec"]

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--iterations", "4", "--points", "1", "--most-steps", "12")


@pytest.fixture
def betty(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else int(code is not None)), out, err

    return run


def test_check_prints_a_plain_table_when_piped(betty: Run, spec: Path) -> None:
    before = spec.read_text()
    code, out, err = betty("check", spec, *QUICK)
    assert (code, err) == (0, "")
    assert "\x1b" not in out and max(map(len, out.splitlines())) <= 100
    assert "check blobs   4 iterations · seed 0" in out
    assert "edge weigher -> classifier" in out and "recommendation   method: " in out
    assert "identity + finite_difference" in out and "left out: it would take about" in out
    assert spec.read_text() == before


def test_flags_are_findings(betty: Run, spec: Path) -> None:
    """A lower that has taken a step or two is not at its solution: exit code 0 all the same."""
    code, out, _ = betty("check", spec, *QUICK, "--set", "edges.0.method=cg")
    assert code == 0 and "unconverged_lower" in out and "solve with the whole Hessian of classifier" in out


def test_json_alone_on_standard_output(betty: Run, spec: Path) -> None:
    code, out, _ = betty("check", spec, *QUICK, "--json", "--seed", "7", "--reference", "unrolled")
    found = json.loads(out)
    assert code == 0 and found["seed"] == 7
    assert "unrolled" in found["edges"][0]["reference"]


def test_write_puts_the_recommendation_into_the_file(betty: Run, spec: Path) -> None:
    before = spec.read_text()
    code, out, err = betty(
        "check", spec, *QUICK, "--json", "--write", "--reference", "unrolled", "--set", "edges.0.method=cg"
    )
    advice = json.loads(out)["edges"][0]["recommendation"]
    assert code == 0 and advice["change"]
    changed = [
        (old, new) for old, new in zip(before.splitlines(), spec.read_text().splitlines(), strict=True) if old != new
    ]
    assert len(changed) == 1 and changed[0][0] == "  - {upper: weigher, lower: classifier, method: finite_difference}"
    assert f"weigher -> classifier now has method: {advice['method']}" in err
    assert load(spec).spec.edges[0].method == advice["method"]


def test_nothing_to_write(betty: Run, spec: Path) -> None:
    arguments = ("--set", "edges.0.method=unrolled", "--write")
    spec.write_text(spec.read_text().replace("method: finite_difference", "method: unrolled"))
    before = spec.read_text()
    code, _, err = betty("check", spec, *QUICK, *arguments)
    assert code == 0 and "is as recommended already" in err
    assert spec.read_text() == before


def test_plot(betty: Run, spec: Path) -> None:
    code, _, err = betty("check", spec, *QUICK, "--plot", "check.png")
    assert code == 0 and "drawn in check.png" in err
    assert Path("check.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "edges.0.method=cgg"), "is not a hypergradient method"),
        (("--points", "0"), "--points"),
        (("--reference", "truth"), "--reference"),
        (("--plot", "check.gif"), "a plot ends in one of"),
    ],
)
def test_mistakes_end_with_code_2(betty: Run, spec: Path, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = betty("check", spec, *arguments, *QUICK[:2], *QUICK[4:])
    assert code == 2 and said in err and "Traceback" not in err


def test_a_plot_that_cannot_be_is_refused_before_the_work(betty: Run, spec: Path) -> None:
    assert betty("check", spec, "--plot", "check.gif")[1] == ""


def test_what_the_program_raises_ends_with_code_1(betty: Run, spec: Path) -> None:
    program = spec.parent / "program.py"
    program.write_text(
        program.read_text().replace("    x, y, _ = batch\n", "    x, y, _ = batch\n    y = y + y.nope\n")
    )
    code, _, err = betty("check", spec, *QUICK)
    assert code == 1 and "'Tensor' object has no attribute 'nope'" in err and "program.py:" in err
