"""``--write`` changes the lines of methods and nothing else, or leaves the file alone."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

from betty.backends.torch.check import Check, EdgeCheck, Recommendation
from betty.checking import write_methods
from betty.checking.spelling import to_flow, to_value
from betty.ir.diagnostics import BettyError
from betty.ir.methods import INVERSES, PRESETS, PRODUCTS, Method, complete, preset
from betty.spec.load import load
from betty.spec.method import method_issues, to_method

HEAD = """\
# What this is about.
name:   demo      # spaces are kept
problems:
    low: {parameters: {w: {shape: [2]}},
          loss: program:fit, optimizer: {target: torch.optim.SGD, lr: 1.0e-1}}
    top:   # the upper
        parameters: {x: {init: 0.0}}
        loss:     program:judge
        optimizer: "torch.optim.Adam"
"""
TAIL = "engine: {iterations: 10}   # the end\n"
CG = preset("cg", {"iterations": 7, "damping": 1e-3})
PAIR = Method(
    solver=complete("neumann", INVERSES["neumann"], {"alpha": 1e-5}),
    product=complete("finite_difference", PRODUCTS["finite_difference"], {}),
)

EDGES = {
    "flow": ("edges:\n  - {upper: top, lower: low, method: cg}  # why\n", "cg}", "{M}}}"),
    "flow without a method": ("edges:\n  - {upper: top, lower: low}  # why\n", "low}", "low, method: {M}}}"),
    "flow over two lines": ("edges: [{upper: top,\n         lower: low}]\n", "low}", "low, method: {M}}}"),
    "trailing comma": ("edges:\n  - {upper: top, lower: low, method: cg, }\n", "cg, }", "{M}, }}"),
    "block": (
        "edges:\n    -   upper: top\n        lower: low # mind\n        method:   cg  # kept\n",
        "  cg  #",
        "  {M}  #",
    ),
    "block without a method": (
        "edges:\n- upper: top\n  lower: low # mind\n\n# about the engine\n",
        "low # mind\n",
        "low # mind\n  method: {M}\n",
    ),
    "method of several lines": (
        "edges:\n- upper: top\n  method:\n    inverse: {name: cg, iterations: 3}\n    product: reverse\n  lower: low\n",
        "method:\n    inverse: {name: cg, iterations: 3}\n    product: reverse\n",
        "method: {M}\n",
    ),
    "method in flow": (
        "edges:\n  - {method: {name: cg, iterations: 3}, upper: top, lower: low}\n",
        "{name: cg, iterations: 3}",
        "{M}",
    ),
    "quoted": ("edges:\n  - {upper: 'top', lower: \"low\", 'method': \"cg\"}\n", '"cg"', "{M}"),
    "empty": ("edges:\n  - upper: top\n    method: auto # choose\n    lower: low\n", "auto #", "{M} #"),
}


def check_of(method: Method, change: bool = True) -> Check:
    advice = Recommendation(method=method, name="", reason="", change=change)
    edge = EdgeCheck(upper="top", lower="low", target="top", reference="", points=(1,), rows=(), recommendation=advice)
    return Check(program="demo", iterations=1, seed=0, tolerance=0.1, edges=(edge,))


@pytest.mark.parametrize("method", [preset("unrolled"), CG, PAIR], ids=["preset", "options", "pair"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("case", EDGES)
def test_only_the_method_changes(case: str, ending: str, method: Method, tmp_path: Path) -> None:
    edges, old, new = EDGES[case]
    before = (HEAD + edges + TAIL).replace("\n", ending)
    file = tmp_path / "spec.yaml"
    file.write_bytes(before.encode())
    written = write_methods(check_of(method), file)
    spelled = to_flow(to_value(method))
    expected = (HEAD + edges.replace(old, new.format(M=spelled)) + TAIL).replace("\n", ending)
    assert file.read_bytes().decode() == expected
    assert load(file).spec.edges[0].to_method() == method
    assert dict(written.changed) == {"top -> low": spelled}
    changed = [line for line in difflib.ndiff(before.splitlines(), expected.splitlines()) if line[0] in "+-"]
    assert len([line for line in changed if line[0] == "+"]) == 1
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_right_already_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(HEAD + EDGES["flow"][0] + TAIL)
    os.utime(file, (1, 1))
    assert not write_methods(check_of(preset("cg"), change=False), file).changed
    assert file.stat().st_mtime == 1


def test_aliases_and_merges(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    shared = "edges:\n  - {upper: top, lower: low, method: &m cg}\n  - {upper: other, lower: low, method: *m}\n"
    more = HEAD + "    other: {parameters: {x: {}}, loss: program:judge, optimizer: torch.optim.SGD}\n"
    file.write_text(more + shared + TAIL)
    with pytest.raises(BettyError, match="an anchor that others may use"):
        write_methods(check_of(preset("unrolled")), file)
    assert file.read_text() == more + shared + TAIL
    swapped = shared.replace("upper: top", "upper: X").replace("upper: other", "upper: top").replace("X", "other")
    file.write_text(more + swapped + TAIL)
    write_methods(check_of(preset("unrolled")), file)
    assert file.read_text() == more + swapped.replace("*m", "unrolled") + TAIL


def test_an_edge_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(HEAD + TAIL)
    with pytest.raises(BettyError, match="no edge top -> low of its own"):
        write_methods(check_of(CG), file)


def test_links_and_modes_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "spec.yaml"
    real.write_text(HEAD + EDGES["flow"][0] + TAIL)
    real.chmod(0o640)
    link.symlink_to(real.name)
    write_methods(check_of(CG), link)
    assert link.is_symlink() and "damping: 0.001" in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "spec.yaml"
    text = HEAD + EDGES["flow"][0] + TAIL
    file.write_text(text)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BettyError, match="cannot be written: No space left on device"):
        write_methods(check_of(CG), file)
    assert file.read_text() == text and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "method",
    [
        *(preset(name) for name in PRESETS),
        CG,
        PAIR,
        *(
            Method(solver=complete(one, INVERSES[one], {}), product=complete(other, PRODUCTS[other], {}))
            for one in INVERSES
            for other in PRODUCTS
        ),
    ],
    ids=Method.to_text,
)
def test_a_method_reads_back_as_it_is_spelled(method: Method) -> None:
    from betty.spec.source import read_yaml

    value = read_yaml(f"method: {to_flow(to_value(method))}\n", "test").data["method"]
    assert not method_issues(value)
    assert to_method(value) == method
