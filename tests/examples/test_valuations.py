"""The examples of data valuation find what was planted: wrong labels, and the sentences that tell a fact."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from betty.spec.beside import import_beside
from tests.support.forks import command, start

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_planted_sentences_are_found(tmp_path: Path) -> None:
    spec = EXAMPLES / "language_model_valuation" / "spec.yaml"
    done = start(command, ["betty", "run", str(spec), "--out", "run"], folder=tmp_path).finish(200)
    assert done.returncode == 0, done.stderr
    assert "then log and score" in done.stdout
    found = np.load(tmp_path / "run" / "scores.npz")
    program: ModuleType = import_beside(EXAMPLES / "language_model_valuation", "program")
    order = found["scores"].argsort(1)[:, :10]
    parts = [len({*row} & {*told}) / 2 for row, told in zip(order.tolist(), program.corpus(0).planted, strict=True)]
    assert sum(parts) / len(parts) > 0.8


@pytest.mark.slow
def test_wrong_labels_are_found_and_pages_written(tmp_path: Path) -> None:
    spec = EXAMPLES / "data_valuation" / "spec.yaml"
    program: ModuleType = import_beside(EXAMPLES / "data_valuation", "program")
    given = ["betty", "value", str(spec), "--self", "--json", "--top", "1350", "--out", "run"]
    done = start(command, given, folder=tmp_path).finish(200)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["examples"]
    values = torch.zeros(len(rows))
    for row in rows:
        values[row["id"]] = row["self_influence"]
    flipped = program.split(0).flipped
    higher = (values[flipped].unsqueeze(1) > values[~flipped]).float().mean()
    assert float(higher) > 0.995
    given = [
        "betty",
        "value",
        str(spec),
        "--weights",
        "run",
        "--top",
        "3",
        "--report",
        "report.html",
        "--export",
        "g.npz",
    ]
    done = start(command, given, folder=tmp_path).finish(200)
    assert done.returncode == 0, done.stderr
    assert "harmful" in done.stdout and "1350 examples" in done.stdout
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") > 50 and "http" not in page.replace("http://www.w3.org", "")
    assert np.load(tmp_path / "g.npz")["gradients"].shape == (1350, 4810)


def test_what_is_asked_for_and_is_not_there_is_told(tmp_path: Path) -> None:
    spec = EXAMPLES / "data_valuation" / "spec.yaml"
    for given, words in (
        (["--queries", "program:test_sat"], "program:test_set"),
        (["--weights", "nowhere.pt"], "nowhere.pt"),
        (["--set", "edges.0.method=ekfak"], "ekfac"),
    ):
        done = start(command, ["betty", "value", str(spec), *given], folder=tmp_path).finish(100)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
