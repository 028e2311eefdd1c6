"""The examples do what their pages say, run as a user runs them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from betty import Engine
from betty.spec.beside import import_beside

EXAMPLES = Path(__file__).parents[2] / "examples"
CLEANING, RIDGE = EXAMPLES / "hyper_cleaning", EXAMPLES / "ridge_hpo"


@pytest.mark.slow
def test_weights_of_wrong_labels_fall_and_accuracy_rises() -> None:
    engine = Engine(CLEANING / "spec.yaml", overrides=["engine.iterations=600", "engine.validate.every=600"])
    assert engine.validate()["weight_flipped"] == pytest.approx(0.5)
    found = engine.run().metrics
    assert found["validate.accuracy"] > 0.86  # noisy labels alone reach 0.71 at best
    assert found["validate.weight_clean"] > 0.7
    assert found["validate.weight_flipped"] < 0.2


def test_classes_and_spec_are_one_program() -> None:
    classes = import_beside(CLEANING, "classes").build(train_iters=10)
    spec = Engine(CLEANING / "spec.yaml")
    plans = [replace(engine.plan, iterations=1) for engine in (classes, spec)]
    assert plans[0] == plans[1]
    program = import_beside(CLEANING, "program")
    noisy, clean = program.noisy_digits(0)[:100], list(program.clean_digits(0).tensors)
    for name, module in spec.modules.items():
        classes.modules[name].load_state_dict(module.state_dict())
    found = []
    for name, batch in (("classifier", noisy), ("weigher", clean)):
        getattr(classes, name).set_train_data_loader([batch])
        spec._program[name].stream = _Same(batch)  # type: ignore[assignment]
    for engine in (classes, spec):
        engine.run(10)
        found.append([value.clone() for module in engine.modules.values() for value in module.state_dict().values()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


class _Same:
    """Data of one batch."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def next(self) -> Any:
        return self._batch

    peek = next


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(CLEANING / "notebook.ipynb", as_version=4)
    folder = shutil.copytree(CLEANING, tmp_path / "example")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("image/png") == 1 and kinds.count("text/html") >= 3
    texts = "".join(output.get("text", "") for output in shown)
    assert "True\n" in texts, "classes and spec have one plan"
    assert "TO WRITE: Lower.training_step" in texts


@pytest.mark.slow
def test_hypergradient_of_a_solved_ridge_is_exact() -> None:
    compare = import_beside(RIDGE, "compare")
    log_decay = torch.linspace(-3, 1, 30, dtype=torch.float64)
    assert compare.relative_error(0, log_decay, 400) < 1e-10
    assert compare.relative_error(0, log_decay, 20) > 1e-4


@pytest.mark.slow
def test_learned_strengths_beat_a_single_one() -> None:
    compare = import_beside(RIDGE, "compare")
    learned, single = (compare.scores(0, choose(0)) for choose in (compare.learned, compare.single))
    validation, test, _, noise = (one / other for one, other in zip(learned, single, strict=True))
    assert validation < 0.9
    assert test < 0.9
    assert noise < 0.7


def test_baselines_take_the_best_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = import_beside(CLEANING, "compare")
    monkeypatch.setattr(compare, "STEPS", 50)
    monkeypatch.setattr(compare, "LEARNING_RATES", (1e-6, 0.1))
    found = compare.tuned([compare.right(seed, "next") for seed in (0, 1)], (0, 1))
    assert [name for name, _ in found] == ["last step, lr 0.1", "early stopped, lr 0.1"]
    assert all(float(reached.min()) > 0.8 for _, reached in found)
