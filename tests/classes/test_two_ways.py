"""A program of classes is the program that a spec of the same is: graph, plan, training, checks and checkpoints."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from betty import Engine
from betty.ir.graph import Graph
from betty.ir.methods import preset
from tests.classes.two_ways import METHODS, as_classes, as_spec

FEW = [preset(name) for name in ("neumann", "dense")]


def weights(engine: Engine) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in engine.modules.items()
        for key, value in module.state_dict().items()
    }


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def comparable(graph: Graph) -> Graph:
    """Without what only one of the two ways can know: the names of losses, and what they read before they run."""
    return graph.map(problem=lambda one: replace(one, loss="", reads=None))


@pytest.mark.parametrize("method", METHODS)
def test_classes_and_spec_give_the_same_graph_plan_and_training(method: str) -> None:
    classes, spec = as_classes(method), as_spec(method)
    assert comparable(classes.graph) == comparable(spec.graph)
    assert classes.plan == spec.plan
    assert classes.explain() == spec.explain()
    torch.manual_seed(spec.spec.engine.seed)
    mine, theirs = classes.run(), spec.run()
    assert equal(weights(classes), weights(spec))
    assert mine.metrics == theirs.metrics and list(mine.history) == list(theirs.history)
    assert mine.metrics["classifier.plain"] > 0


def test_check_finds_the_same() -> None:
    classes, spec = as_classes("cg"), as_spec("cg")
    found = [engine.check(iterations=8, points=1, methods=FEW) for engine in (classes, spec)]
    rows = [
        {row.name: (row.cosine, row.error, row.reason) for edge in report.check.edges for row in edge.rows}
        for report in found
    ]
    assert rows[0] == rows[1] and rows[0]["dense + reverse"][0] > 0.99


def test_check_leaves_a_program_of_classes_as_it_is() -> None:
    checked, plain = as_classes("darts"), as_classes("darts")
    for engine in (checked, plain):
        torch.manual_seed(1)
        engine.run(3)
        if engine is checked:
            random = torch.get_rng_state()
            checked.check(iterations=6, points=1, methods=FEW)
            assert torch.equal(random, torch.get_rng_state())
        engine.run(5)
    assert equal(weights(checked), weights(plain))


def test_run_folder_profile_and_drawing(tmp_path: Path) -> None:
    engine = as_classes("cg", checkpoint_every=4)
    result = engine.run(out=tmp_path / "run", profile=True)
    assert result.folder is not None and re.search(r"classifier .* ms", result.profile)
    written = {path.name for path in result.folder.iterdir()}
    assert written == {"metrics.jsonl", "plan.txt", "spec.yaml", "weights.pt", "checkpoints"}
    assert (result.folder / "spec.yaml").read_text() == engine.to_spec()
    assert engine.render(tmp_path / "graph.dot").path.read_text().count("classifier") > 1
    assert "svg" in engine._repr_html_() and "classifier" in engine._repr_html_()


@pytest.mark.parametrize("method", ["darts", "cg"])
def test_a_checkpoint_goes_on_bit_for_bit(tmp_path: Path, method: str) -> None:
    whole = as_classes(method, checkpoint_every=6)
    whole.run(out=tmp_path / "run")
    cut = as_classes(method)
    torch.manual_seed(77)  # of other draws than the checkpoint's
    cut.restore(tmp_path / "run" / "checkpoints" / "00000006.pt")
    assert cut.global_step == 6 and [problem.count for problem in cut.problems] == [6, 1]
    cut.run(6)
    assert equal(weights(cut), weights(whole))


def test_to_spec_names_what_is_to_be_written(tmp_path: Path) -> None:
    text = as_classes("cg").to_spec()
    assert "optimizer: {target: torch.optim.SGD, lr: 0.1, momentum: 0.9, weight_decay: 0.001}" in text
    assert "scheduler: {target: torch.optim.lr_scheduler.StepLR, step_size: 3, gamma: 0.5}" in text
    assert "# TO WRITE: Classifier.training_step as a function of (batch, classifier, weigher)" in text
    assert "  roll_back" not in text and as_classes("cg", roll_back=True).to_spec().endswith("roll_back: true\n")
    assert "{upper: weigher, lower: classifier, flow: both, method: {name: cg, iterations: 3, tolerance: 0.0}}" in text
