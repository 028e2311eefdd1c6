"""Several mistakes in one report: all of them, in the order of the file, and nothing that follows from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from betty.ir.diagnostics import SpecError
from betty.spec.frontend import compile_source
from betty.spec.load import load
from tests.spec.support import SPEC, edited, report, write

EVERYTHING = edited(
    ("width: 8", "widht: 8"),
    ("unroll: 2", "unrol: 2"),
    ("module: program:Weigher", "module: program:Wiegher"),
    ("upper: weigher", "upper: weihger"),
    ("method: auto", "method: neuman"),
    ("iterations: 100", "iterations: none"),
)

REPORT = """\
SpecError: problems.classifier.module.args.widht: 'program:Net' takes no argument 'widht'
  where     spec.yaml:4:42
  expected  width
  try       width

SpecError: problems.classifier.unrol: unknown field 'unrol'
  where     spec.yaml:9:5
  expected  one of module, parameters, loss, data, optimizer, initial, scheduler, unroll, precision, scaler, \
activation_checkpointing, gradient_accumulation, gradient_clipping, warm_up, example_weights, shard_parameters
  try       unroll

SpecError: problems.weigher.module: 'program' has no 'Wiegher'
  where     spec.yaml:11:13
  expected  one of BadLoss, Decay, Net, Sgd, Weigher, accuracy, batch_accuracy, clean_loss, digits, misspelt_loss, \
own_loss, positional_loss, weighted_loss
  try       program:Weigher

SpecError: edges[0].upper: there is no problem 'weihger'
  where     spec.yaml:16:13, edge weihger -> classifier
  expected  one of classifier, weigher
  try       upper: weigher

SpecError: edges[0].method: 'neuman' is not a hypergradient method
  where     spec.yaml:16:61, edge weihger -> classifier
  expected  one of auto, cg, dense, evolution_strategies, finite_difference, forward_mode, identity, \
minres, neumann, nystrom, penalty, reinforce, sama, unrolled
  try       method: neumann

SpecError: engine.iterations: found 'none' (text)
  where     spec.yaml:18:15
  expected  a whole number

6 errors"""


@pytest.mark.parametrize("static", [False, True], ids=["imported", "static"])
def test_everything_wrong_is_reported_at_once_in_the_order_of_the_file(tmp_path: Path, static: bool) -> None:
    assert report(tmp_path, EVERYTHING, static=static) == REPORT


def test_loading_alone_reports_fields_and_edges(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        load(write(tmp_path, EVERYTHING))
    assert [one.code for one in error.value.diagnostics] == [
        "unknown-field",
        "unknown-problem",
        "unknown-method",
        "wrong-type",
    ]


def test_overrides_come_last_and_are_named(tmp_path: Path) -> None:
    text = report(tmp_path, edited(("unroll: 2", "unroll: 0")), overrides=["engine.seed=-1", "engine.sed=1"])
    assert text == (
        "SpecError: problems.classifier.unroll: 0 is out of range\n"
        "  where     spec.yaml:9:13\n"
        "  expected  at least 1\n\n"
        "SpecError: engine.seed: -1 is out of range\n"
        "  where     --set engine.seed=-1\n"
        "  expected  at least 0\n\n"
        "SpecError: engine.sed: unknown field 'sed'\n"
        "  where     --set engine.sed=1\n"
        "  expected  one of iterations, device, seed, precision, scaler, on_nonfinite, validate, early_stopping, "
        "roll_back, memory, compile, log, checkpoint, strategy, adjoints, backend, and 1 more\n"
        "  try       seed\n\n"
        "3 errors"
    )


def test_a_refused_loss_is_not_also_missing(tmp_path: Path) -> None:
    text = report(tmp_path, edited(("loss: program:weighted_loss", "loss: 3")))
    assert text.count("SpecError") == 1


def test_a_refused_module_is_not_also_missing(tmp_path: Path) -> None:
    text = report(tmp_path, edited(("module: program:Weigher", "module: []")))
    assert text.count("SpecError") == 1


def test_edges_keep_their_numbers_after_one_is_refused(tmp_path: Path) -> None:
    spec = edited(("  - {upper: weigher", "  - {upper: weigher}\n  - {upper: weigher"), ("method: auto", "method: cgg"))
    text = report(tmp_path, spec)
    assert "edges[0].lower: missing field 'lower'" in text
    assert "edges[1].method: 'cgg' is not a hypergradient method" in text
    assert "spec.yaml:17:61, edge weigher -> classifier" in text


def test_graph_findings_carry_the_number_of_the_spec(tmp_path: Path) -> None:
    spec = edited(
        ("  - {upper: weigher", "  - {upper: nobody, lower: classifier}\n  - {upper: weigher"),
        ("program:weighted_loss", "program:clean_loss"),
    )
    text = report(tmp_path, spec)
    assert "edges[0].upper: there is no problem 'nobody'" in text
    assert "edges[1].flow: flow 'both' lets 'classifier' read 'weigher'" in text


def test_a_module_that_fails_is_reported_once(tmp_path: Path) -> None:
    assert report(tmp_path, SPEC, "raise ValueError('first line\\nsecond line')\n") == (
        "SpecError: problems.classifier.module.target: importing 'program' raised ValueError: first line, "
        "at program.py:1\n"
        "  where     spec.yaml:4:22\n"
        "  expected  a module that can be imported"
    )


def test_a_file_that_is_no_python_is_reported_once_without_imports(tmp_path: Path) -> None:
    assert report(tmp_path, SPEC, "x = = 1\n", static=True) == (
        "SpecError: problems.classifier.module.target: reading 'program' found SyntaxError: invalid syntax, "
        "at program.py:1\n"
        "  where     spec.yaml:4:22\n"
        "  expected  a module that can be imported"
    )


def test_paths_are_shown_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "inner"
    folder.mkdir()
    with pytest.raises(SpecError) as error:
        compile_source(write(folder, edited(("unroll: 2", "unroll: 0"))))
    assert error.value.diagnostics[0].where == "inner/spec.yaml:9:13"
