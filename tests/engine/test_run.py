"""Running a spec: what is written, what is returned, and that a run is a function of its seed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from betty import Engine, RunError
from betty.observers.base import Quiet
from betty.result import History, plot


def weights(engine: Engine) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in engine.modules.items()
        for key, value in module.state_dict().items()
    }


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_run_writes_its_folder(spec: Path) -> None:
    engine = Engine(spec, overrides=["engine.validate={target: program:accuracy, every: 6}"])
    result = engine.run(write=True)
    assert result.folder == Path("runs/blobs-1")
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "metrics.jsonl",
        "plan.txt",
        "spec.yaml",
        "weights.pt",
    ]
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [4, 6, 8, 12]
    assert rows[-1]["validate.accuracy"] == pytest.approx(result.metrics["validate.accuracy"])
    assert (result.folder / "plan.txt").read_text().startswith("plan blobs")
    saved = torch.load(result.folder / "weights.pt", weights_only=True)
    assert same({f"{n}.{k}": v for n, s in saved.items() for k, v in s.items()}, weights(engine))


def test_written_spec_is_the_one_that_ran(spec: Path) -> None:
    folder = Engine(spec, overrides=["problems.classifier.optimizer.lr=0.05"]).run(1, write=True).folder
    assert folder is not None
    again = spec.parent / "again.yaml"
    again.write_text((folder / "spec.yaml").read_text())
    one, other = Engine(spec, overrides=["problems.classifier.optimizer.lr=0.05"]), Engine(again)
    one.run(3), other.run(3)
    assert same(weights(one), weights(other))


def test_folders_are_numbered_and_never_written_over(spec: Path) -> None:
    engine = Engine(spec)
    assert [engine.run(1, write=True).folder for _ in range(2)] == [Path("runs/blobs-1"), Path("runs/blobs-2")]
    assert engine.run(1, out="mine").folder == Path("mine")
    with pytest.raises(RunError, match="mine holds a run already; name another folder, or none for runs/blobs-<n>"):
        engine.run(1, out="mine")


def test_unwritable_folder_is_one_message(spec: Path) -> None:
    Path("file").write_text("")
    with pytest.raises(RunError, match="cannot make the run's folder: Not a directory"):
        Engine(spec).run(1, out="file/run")


def test_result_and_history(spec: Path) -> None:
    result = Engine(spec).run()
    history = result.history
    assert history.columns[:2] == ["iteration", "classifier.loss"]
    assert history.column("weigher.accuracy")[0] == [4, 8, 12]
    assert result.metrics["classifier.loss"] == history[-1]["classifier.loss"]
    assert "weigher.accuracy" in repr(history) and "<table>" in history._repr_html_()
    assert result.reason == "finished" and result.iterations == 12 and result.folder is None
    with pytest.raises(KeyError, match=r"no column 'los'; there are iteration, classifier\.loss"):
        history.column("los")


def test_plot_has_a_panel_for_each_problem(spec: Path) -> None:
    figure = Engine(spec, overrides=["engine.validate={target: program:accuracy, every: 6}"]).run().plot()
    assert [axis.get_title() for axis in figure.axes] == ["classifier", "weigher", "validate"]
    lines = {line.get_label(): line for line in figure.axes[1].get_lines()}
    assert np.asarray(lines["accuracy"].get_xdata()).tolist() == [4, 8, 12]


def test_plot_shows_single_points_and_itself_in_a_notebook() -> None:
    history = History([{"iteration": 1, "a.loss": 1.0, "b.loss": 1.0}, {"iteration": 2, "a.loss": 2.0}])
    figure = plot(history)
    assert [axis.get_lines()[0].get_marker() for axis in figure.axes] == ["None", "o"]
    picture: bytes = getattr(figure, "_repr_png_")()  # noqa: B009 - what a notebook looks for
    assert picture.startswith(b"\x89PNG")


def test_a_run_is_a_function_of_its_seed(spec: Path) -> None:
    runs = []
    for seed in (0, 0, 1):
        engine = Engine(spec, overrides=[f"engine.seed={seed}"])
        engine.run()
        runs.append(weights(engine))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


LOADER = """

def loader():
    return torch.utils.data.DataLoader(blobs(96, noise=0.3), batch_size=32, shuffle=True)
"""


def test_the_seed_orders_a_loader_without_a_generator(spec: Path) -> None:
    program = spec.parent / "program.py"
    program.write_text(program.read_text() + LOADER)
    runs = []
    for seed in (0, 0, 1):
        torch.rand(seed + 3)  # what else draws in the process is no matter
        overrides = ["problems.classifier.data=program:loader", f"engine.seed={seed}"]
        engine = Engine(spec, overrides=overrides)
        stream = engine._program["classifier"].stream
        assert stream is not None
        first = stream.peek()[2].clone()
        engine.run(8)
        runs.append((first, weights(engine)))
    assert torch.equal(runs[0][0], runs[1][0])
    assert not torch.equal(runs[0][0], runs[2][0])
    assert same(runs[0][1], runs[1][1])


def test_a_run_leaves_the_random_states_alone(spec: Path) -> None:
    before = (random.getstate(), torch.get_rng_state())
    Engine(spec).run(2)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_running_on_equals_running_through(spec: Path) -> None:
    whole, parts = Engine(spec), Engine(spec)
    whole.run(10)
    parts.run(3)
    torch.rand(5)  # what else draws in the process is no matter
    parts.run(7)
    assert parts.iteration == 10
    assert same(weights(whole), weights(parts))


@pytest.mark.parametrize(
    ("overrides", "lower", "upper"),
    [
        ([], 12, 12),
        (["problems.classifier.unroll=5"], 12, 2),
        (["problems.classifier.gradient_accumulation=3"], 4, 4),
        (["problems.classifier.unroll=2", "problems.classifier.gradient_accumulation=2"], 6, 3),
        (["problems.classifier.warm_up=4"], 12, 8),
        (["problems.weigher.gradient_accumulation=4"], 12, 3),
    ],
)
def test_updates_follow_unroll_accumulation_and_warm_up(
    spec: Path, overrides: list[str], lower: int, upper: int
) -> None:
    engine = Engine(spec, overrides=overrides)
    engine.run()
    program = engine._program
    assert (program["classifier"].version, program["weigher"].version) == (lower, upper)


class Interrupts(Quiet):
    def iterated(self, iteration: int) -> None:
        if iteration == 5:
            raise KeyboardInterrupt


def test_an_interrupted_engine_runs_on(spec: Path) -> None:
    engine, whole = Engine(spec), Engine(spec)
    result = engine.run(observers=[Interrupts()], write=True)
    assert result.reason == "interrupted" and engine.iteration == 5
    assert result.folder is not None and (result.folder / "weights.pt").exists()
    engine.run(7)
    whole.run(12)
    assert same(weights(engine), weights(whole))


def test_learning_weights_finds_the_noise(spec: Path) -> None:
    overrides = ["engine.iterations=300", "engine.validate={target: program:accuracy, every: 300}"]
    learned, plain = Engine(spec, overrides=overrides), Engine(spec, overrides=[*overrides, NEVER])
    accuracy = [engine.run().metrics["validate.accuracy"] for engine in (learned, plain)]
    generator = torch.Generator().manual_seed(0)
    torch.randint(0, 3, (96,), generator=generator), torch.randn(96, 4, generator=generator)
    flipped = torch.rand(96, generator=generator) < 0.3  # as the program draws them
    logit = dict(learned.modules["weigher"].named_parameters())["logit"].detach()
    assert logit[~flipped].mean() > logit[flipped].mean() + 1.0
    assert accuracy[0] > accuracy[1]


NEVER = "problems.classifier.warm_up=1000"
"""The upper problem never steps."""


def test_tensorboard_events(spec: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = Engine(spec, overrides=["engine.log.tensorboard=true"]).run(write=True).folder
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("weigher/accuracy")] == [4, 8, 12]
