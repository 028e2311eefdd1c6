"""A run that goes on from a saved state equals the one that was never interrupted, bit for bit."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from betty import Engine, RunError
from betty.cli import main
from betty.observers.base import Quiet

PROGRAM = """\
import random

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self, smooth=True):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 2))

    def forward(self, x):
        return self.layers(x)


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(24))
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, index):
        self.calls += 1
        return torch.sigmoid(self.logit[index])


def examples(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(24, 3, generator=generator)
    return TensorDataset(x, (x.sum(1) > 0).long(), torch.arange(24))


def loader(seed):  # draws its order from the process's generators
    return DataLoader(examples(seed), batch_size=7, shuffle=True)


def fit(batch, net, weights):
    x, y, index = batch
    noise = torch.randn_like(x) * 0.01 * random.random()
    return {"loss": (weights(index) * F.cross_entropy(net(x + noise), y, reduction="none")).mean(), "seen": len(x)}


def judge(batch, net, weights, rate):
    x, y, _ = batch
    size = (weights.parameters["logit"] ** 2).mean()
    return F.cross_entropy(net(x), y) + 0.01 * rate.parameters["decay"].exp() * size


def outer(batch, net, weights):
    x, y, _ = batch
    return F.cross_entropy(net(x), y) + 0.1 * weights.parameters["logit"].square().mean()


def start(batch, net):
    x, y, _ = batch
    return F.cross_entropy(net(x), y)


def top(weights):
    return (weights.parameters["logit"] - 0.3).square().mean()


def measure(net):
    return {"size": sum(float(one.detach().square().sum()) for one in net.parameters.values())}
"""

TWO = """\
name: two
problems:
  net:
    module: program:Net
    loss: program:fit
    data: {target: program:examples, args: {seed: 0}, batch_size: 5}
    optimizer: {target: torch.optim.SGD, lr: 0.1, momentum: 0.9}
    scheduler: {target: torch.optim.lr_scheduler.StepLR, step_size: 3, gamma: 0.9}
    unroll: 3
  weights:
    module: program:Weights
    loss: program:outer
    data: {target: program:loader, args: {seed: 1}}
    optimizer: {target: torch.optim.Adam, lr: 0.05}
edges:
  - {upper: weights, lower: net, flow: both, method: METHOD}
engine: {iterations: 24, device: cpu, log: {every: 5}, validate: {target: program:measure, every: 4}}
"""
THREE = TWO.replace("program:outer", "program:judge").replace(
    "edges:\n",
    """\
  rate:
    parameters: {decay: {shape: [], init: 0.1}}
    loss: program:top
    optimizer: {target: torch.optim.Adam, lr: 0.1}
edges:
  - {upper: rate, lower: weights, flow: both, method: METHOD}
""",
)
META = """\
  meta:
    module: program:Net
    loss: program:start
    data: {target: program:loader, args: {seed: 2}}
    optimizer: {target: torch.optim.Adam, lr: 0.05}
edges:
"""
METHODS = {
    "finite_difference": "finite_difference",
    "sama": "sama",
    "cg": "{name: cg, iterations: 3, warm_start: true}",
    "nystrom": "{inverse: {name: nystrom, rank: 3}, product: forward}",
    "unrolled": "unrolled",
    "unrolled over several loops": "{name: unrolled, steps: 7}",
    "remat": "{name: unrolled, steps: 7, remat: true}",
    "forward_mode": "{name: forward_mode, reset: false}",
    "evolution_strategies": "{name: evolution_strategies, samples: 2, steps: 4}",
    "penalty": "{name: penalty, iterations: 2}",
}


def write(spec: str, method: str) -> Path:
    Path("program.py").write_text(PROGRAM)
    Path("spec.yaml").write_text(spec.replace("METHOD", method))
    return Path("spec.yaml")


def assert_same(one: Engine, other: Engine) -> None:
    for name, module in one.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, other.modules[name].state_dict()[key]), (name, key)
        for mine, theirs in zip(module.buffers(), other.modules[name].buffers(), strict=True):
            assert torch.equal(mine, theirs)


def disturbed() -> None:
    """Other random states than those of the run that was saved."""
    torch.manual_seed(987)
    random.seed(654)
    np.random.seed(321)


def rows(engine: Engine, iterations: int) -> list[Any]:
    return [dict(row) for row in engine.run(iterations).history]


def assert_goes_on(spec: Path, at: int, *overrides: str) -> None:
    given = ["engine.checkpoint={every: 1000}", *overrides]
    whole, saved, resumed = (Engine(spec, overrides=given) for _ in range(3))
    expected = rows(whole, 24)
    saved.run(at)
    saved.save("state.pt")
    disturbed()
    resumed.restore("state.pt")
    found = rows(resumed, 24 - at)
    assert_same(whole, resumed)
    assert found[-2:] == expected[-2:]


@pytest.mark.parametrize("at", [4, 9])
@pytest.mark.parametrize("method", METHODS)
def test_two_levels(method: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_goes_on(write(TWO, METHODS[method]), at)


@pytest.mark.parametrize("method", ["cg", "unrolled", "remat", "finite_difference"])
def test_three_levels(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_goes_on(write(THREE, METHODS[method]), 14, "problems.weights.unroll=2")


@pytest.mark.parametrize("at", [4, 6])
@pytest.mark.parametrize("method", ["unrolled", "remat", "cg"])
def test_accumulation(method: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an update whose first micro-batches have been evaluated."""
    monkeypatch.chdir(tmp_path)
    assert_goes_on(write(TWO, METHODS[method]), at, "problems.net.gradient_accumulation=4", "problems.net.unroll=2")


@pytest.mark.parametrize("method", ["unrolled", "remat", "cg"])
def test_episodes(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates that are linked, since each episode begins anew."""
    monkeypatch.chdir(tmp_path)
    edge = "{upper: weights, lower: net, flow: both, method: METHOD}"
    text = TWO.replace("edges:\n", META).replace("unroll: 3\n", "unroll: 5\n    initial: {from: meta}\n")
    text = text.replace(edge, edge + "\n  - {upper: meta, lower: net, flow: both, method: unrolled}")
    spec = write(text, METHODS[method])
    assert_goes_on(spec, 13)


# -- whole runs, in their folders


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write(TWO, "{name: cg, iterations: 3, warm_start: true}")


CHECKPOINTS = "engine.checkpoint={every: 5, keep: 2, best: {metric: size}}"


def interrupted(spec: Path, at: int, out: str = "part") -> None:
    """A run that is stopped after so many iterations, as by Ctrl-C."""

    class Stop(Quiet):
        def iterated(self, iteration: int) -> None:
            if iteration == at:
                raise KeyboardInterrupt

    assert Engine(spec, overrides=[CHECKPOINTS]).run(out=out, observers=[Stop()]).reason == "interrupted"


def test_an_interrupted_run_goes_on_in_its_folder(spec: Path) -> None:
    whole = Engine(spec, overrides=[CHECKPOINTS]).run(out="whole")
    interrupted(spec, 13)
    names = sorted(path.name for path in Path("part/checkpoints").iterdir())
    assert names[:2] == ["00000010.pt", "00000013.pt"] and set(names[2:]) <= {"best.pt"}
    disturbed()
    result = Engine(spec, overrides=[CHECKPOINTS]).resume("part")
    assert result.iterations == 24 and list(result.history) == list(whole.history)
    assert Path("part/metrics.jsonl").read_text() == Path("whole/metrics.jsonl").read_text()
    mine, theirs = (torch.load(f"{name}/weights.pt", weights_only=True) for name in ("part", "whole"))
    assert all(torch.equal(value, theirs[name][key]) for name in mine for key, value in mine[name].items())


def test_a_run_that_is_cut_short_within_an_iteration_leaves_no_step_out(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Engine(spec, overrides=[CHECKPOINTS]).run(out="whole")
    cut = Engine(spec, overrides=[CHECKPOINTS])
    executor = cut._trainer.executor
    step = executor.step

    def stopping(name: str) -> Any:
        if name == "weights" and cut.iteration == 12:  # the other problem has stepped in this iteration
            raise KeyboardInterrupt
        return step(name)

    monkeypatch.setattr(executor, "step", stopping)
    assert cut.run(out="part").reason == "interrupted"
    assert max(path.name for path in Path("part/checkpoints").glob("0*.pt")) == "00000010.pt"
    assert list(Engine(spec, overrides=[CHECKPOINTS]).resume("part").history) == list(whole.history)


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_a_damaged_checkpoint_is_put_aside(spec: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = Engine(spec, overrides=[CHECKPOINTS]).run(out="whole")
    interrupted(spec, 13)
    newest = Path("part/checkpoints/00000013.pt")
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 255
    newest.write_bytes({"cut": bytes(raw[: len(raw) // 3]), "altered": bytes(raw), "empty": b""}[damage])
    result = Engine(spec, overrides=[CHECKPOINTS]).resume("part")
    assert "00000013.pt is" in caplog.text and "the one before it is used" in caplog.text
    assert Path("part/checkpoints/00000013.pt.damaged").exists()
    assert list(result.history) == list(whole.history)


def test_a_changed_program_is_refused_and_the_fields_are_named(spec: Path) -> None:
    interrupted(spec, 13)
    changed = [CHECKPOINTS, "problems.net.optimizer.lr=0.2", "engine.iterations=30", "engine.seed=4"]
    with pytest.raises(RunError) as caught:
        Engine(spec, overrides=changed).resume("part")
    text = str(caught.value)
    assert "problems.net.optimizer.args.lr: 0.1 -> 0.2" in text or "problems.net.optimizer.lr: 0.1 -> 0.2" in text
    assert "engine.seed: nothing -> 4" in text and "iterations" not in text and "--resume-anyway" in text
    assert Engine(spec, overrides=changed).resume("part", anyway=True).iterations == 30


def test_the_last_run_is_the_one_that_goes_on(spec: Path) -> None:
    interrupted(spec, 7, out="runs/two-1")
    assert Engine(spec, overrides=[CHECKPOINTS]).resume().folder == Path("runs/two-1")
    Path("runs/two-1/metrics.jsonl").unlink()
    with pytest.raises(RunError, match="there is no run two-<n> in runs"):
        Engine(spec, overrides=[CHECKPOINTS]).resume()


def test_the_best_checkpoint_is_kept(spec: Path) -> None:
    asked = ["engine.checkpoint={every: 4, keep: 1, best: {metric: size}}"]
    result = Engine(spec, overrides=asked).run(out="part")
    iterations, sizes = result.history.column("validate.size")
    best = iterations[sizes.index(min(sizes))]
    found = Engine(spec, overrides=asked)
    found.restore("part/checkpoints/best.pt")
    assert found.iteration == best
    with pytest.raises(RunError, match=r"checkpoint\.best watches 'sise'"):
        Engine(spec, overrides=["engine.checkpoint={every: 4, best: {metric: sise}}"]).run(out="other")


def test_on_the_command_line(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_of = ["run", str(spec), "--set", CHECKPOINTS, "--set", "engine.log.every=1"]
    for arguments in ([*main_of, "--set", "engine.iterations=8", "--out", "part"], ["run", "--resume", "part"]):
        with suppress(SystemExit):
            main([*arguments])
    assert "8 iterations in" in capsys.readouterr().out
    main_again = ["run", "--resume", "part", "--set", "engine.iterations=12"]
    with suppress(SystemExit):
        main(main_again)
    assert "12 iterations in" in capsys.readouterr().out
    for given, message in {
        ("run", "--resume", "nowhere"): "RunError: there is no folder nowhere",
        ("run",): "BettyError: name a spec: betty run SPEC",
        ("run", "--resume", "part", "--out", "x"): "BettyError: --out names the folder of a new run",
        ("run", "--resume", "part", "--set", "problems.net.unroll=2"): "problems.net.unroll: 3 -> 2",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main([*given])
        assert ended.value.code == 2 and message in capsys.readouterr().err
