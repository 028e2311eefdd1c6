"""Numbers that are not finite stop a run, are skipped or rolled back, before they reach a parameter or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from betty import Engine, EngineConfig, RunError, SpecError
from betty.backends.torch.finite import NonfiniteError
from betty.cli import main
from betty.configs import ConfigError

ROOT = 'Path("broken").exists()'
PROGRAM = f"""\
from pathlib import Path

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1))

    def forward(self, x):
        return self.layers(x)


def examples(seed):
    torch.manual_seed(seed)
    x = torch.randn(24, 2)
    if seed == 0 and {ROOT}:
        x[7] = torch.nan
    return torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))


def fit(batch, net, rate):
    x, y = batch
    decay = rate.parameters["decay"].exp()
    return ((net(x) - y) ** 2).mean() + decay * sum((p**2).sum() for p in net.parameters.values())


def judge(batch, net):
    x, y = batch
    return ((net(x) - y) ** 2).mean()


def middle(batch, net, rate, prior):
    x, y = batch
    return ((net(x) - y) ** 2).mean() + (rate.parameters["decay"] - prior.parameters["mean"]) ** 2


def above(rate):
    return (rate.parameters["decay"] - 0.3) ** 2
"""
SPEC = """\
name: two
problems:
  net:
    module: program:Net
    loss: program:fit
    data: {target: program:examples, args: {seed: 0}, batch_size: 6}
    optimizer: {target: torch.optim.SGD, lr: 0.02, momentum: 0.9}
    scheduler: {target: torch.optim.lr_scheduler.StepLR, step_size: 2, gamma: 0.9}
    unroll: 2
  rate:
    parameters: {decay: {shape: [], init: -2.0}}
    loss: program:judge
    data: {target: program:examples, args: {seed: 1}, batch_size: 6}
    optimizer: {target: torch.optim.Adam, lr: 0.05}
edges:
  - {upper: rate, lower: net, flow: both, method: METHOD}
engine: {iterations: 12, device: cpu, log: {every: 1}}
"""
METHODS = {
    "finite_difference": "finite_difference",
    "sama": "sama",
    "cg": "{name: cg, iterations: 2, warm_start: true}",
    "unrolled": "unrolled",
    "remat": "{name: unrolled, steps: 3, remat: true}",
    "forward_mode": "forward_mode",
    "penalty": "{name: penalty, iterations: 2}",
    "evolution_strategies": "{name: evolution_strategies, samples: 2}",
}


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.chdir(tmp_path)

    def write(method: str = "cg", broken: bool = True) -> Path:
        Path("program.py").write_text(PROGRAM)
        Path("spec.yaml").write_text(SPEC.replace("METHOD", METHODS.get(method, method)))
        if broken:
            Path("broken").touch()
        return Path("spec.yaml")

    return write


def everything(engine: Engine) -> dict[str, Any]:
    """All that an update changes, and all that depends on it, by name."""
    found: dict[str, Any] = {}
    for name, problem in engine._program.problems.items():
        found.update({f"{name}.{key}": value.clone() for key, value in problem.module.state_dict().items()})
        for index, state in enumerate(problem.optimizer.state_dict()["state"].values() if problem.optimizer else ()):
            found.update({f"{name}.{index}.{key}": torch.as_tensor(value).clone() for key, value in state.items()})
        found[f"{name}.schedule"] = torch.tensor(problem.scheduler.last_epoch if problem.scheduler else 0)
        found[f"{name}.version"] = torch.tensor(problem.version)
        found[f"{name}.tape"] = torch.tensor([one.version for one in problem.tape])
        found[f"{name}.records"] = torch.tensor([one.version for one in problem.history.records])
        kept = [id(sample) for sample in problem.kept]
        found[f"{name}.kept"] = torch.tensor(kept, dtype=torch.int64)
        found[f"{name}.last"] = torch.tensor(id(problem.last))
        for target, tangents in problem.tangents.items():
            for index, column in enumerate(tangents.columns):
                found[f"{name}.{target}.{index}"] = torch.cat([leaf.reshape(-1) for leaf in column.parameters])
        for slot, memory in problem.memories.items():
            solution = memory.get("solution", ())
            found[f"{name}.{slot}.memory"] = torch.cat([torch.zeros(0), *(leaf.reshape(-1) for leaf in solution)])
    return found


def assert_unchanged(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> None:
    assert {key for key in before if key.startswith(prefix)} == {key for key in after if key.startswith(prefix)}
    for key, value in before.items():
        if key.startswith(prefix):
            assert torch.equal(value, after[key]), key


def poison(engine: Engine, problem: str, when: set[int]) -> None:
    """Batches of a problem that are not numbers, at some of its steps."""
    stream = engine._program[problem].stream
    assert stream is not None
    plain, calls = stream.next, iter(range(1, 10_000))

    def poisoned() -> Any:
        x, y = plain()
        return [x * torch.nan, y] if next(calls) in when else [x, y]

    stream.next = poisoned  # type: ignore[method-assign]


# -- stop


def test_a_loss_stops_the_run_and_what_is_known_is_named(
    spec: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    spec()
    with pytest.raises(SystemExit) as caught:
        main(["run", "spec.yaml", "--out", "part", "--set", "engine.checkpoint={every: 1, keep: 2}"])
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert "the loss of 'net' is not finite" in text and "instruction %1 differentiate" in text
    done = len(Path("part/metrics.jsonl").read_text().splitlines())
    assert f"problem 'net', step {done + 1} (iteration {done + 1})" in text
    assert f"part/checkpoints/{done:08d}.pt" in text and "betty run --resume part" in text
    assert "Traceback" not in text and not Path("part/weights.pt").exists()
    # What was saved is sound, and goes on: here with the update left out.
    with pytest.raises(SystemExit):
        main(["run", "--resume", "part", "--set", "engine.on_nonfinite=skip"])
    assert "12 iterations" in capsys.readouterr().out
    weights = torch.load("part/weights.pt", weights_only=True)
    assert all(bool(value.isfinite().all()) for part in weights.values() for value in part.values())


@pytest.mark.parametrize("method", METHODS)
def test_no_parameter_is_changed_by_what_is_not_finite(spec: Callable[..., Path], method: str) -> None:
    engine = Engine(spec(method, broken=False))
    poison(engine, "net", {5})
    engine.run(4)
    before = everything(engine)
    with pytest.raises(NonfiniteError, match="the loss of 'net' is not finite") as caught:
        engine.run(1)
    assert "(iteration 5)" in str(caught.value) and "there is no checkpoint to go on from" in str(caught.value)
    after = everything(engine)
    for found in (before, after):  # buffers have seen the batch, and derivatives of the last loop are over
        for key in [key for key in found if "running_" in key or "batches" in key or ".kept" in key or ".rate." in key]:
            del found[key]
    assert_unchanged(before, after)


@pytest.mark.parametrize("method", ["finite_difference", "cg", "unrolled"])
def test_the_loss_of_an_upper_stops_the_run(spec: Callable[..., Path], method: str) -> None:
    engine = Engine(spec(method, broken=False))
    poison(engine, "rate", {2})
    with pytest.raises(NonfiniteError, match="the loss of 'rate' is not finite") as caught:
        engine.run(12)
    assert "problem 'rate', step 2 (iteration 4)" in str(caught.value) and engine._program["rate"].version == 1


def sqrt_at_zero(batch: Any, net: Any) -> Tensor:
    del batch
    return (net.parameters["w"] * 0).sum().sqrt() + net.parameters["w"].sum()


def far(net: Any, upper: Any) -> Tensor:
    return 1e10 * (net.parameters["w"] ** 2).sum() + (net.parameters["w"] * upper.parameters["x"]).sum()


def near(net: Any) -> Tensor:
    return (net.parameters["w"] - 1).square().sum()


def small(loss: Any, upper: Any, method: Any, lr: float = 1e-12) -> dict[str, Any]:
    sgd = {"target": "torch.optim.SGD", "lr": lr}
    return {
        "name": "small",
        "problems": {
            "net": {"parameters": {"w": {"shape": [3], "init": 0.5}}, "loss": loss, "optimizer": sgd},
            "upper": {"parameters": {"x": {"shape": [3]}}, "loss": upper, "optimizer": sgd},
        },
        "edges": [{"upper": "upper", "lower": "net", "method": method}],
        "engine": {"device": "cpu", "iterations": 3},
    }


def test_a_finite_loss_with_a_gradient_that_is_not() -> None:
    sgd = {"target": "torch.optim.SGD", "lr": 0.1}
    net = {"parameters": {"w": {"shape": [3]}}, "loss": sqrt_at_zero, "data": [torch.zeros(1)], "optimizer": sgd}
    engine = Engine({"name": "root", "problems": {"net": net}, "engine": {"device": "cpu", "iterations": 3}})
    with pytest.raises(NonfiniteError, match="the gradient of the loss of 'net' is not finite"):
        engine.run()
    assert torch.equal(engine.modules["net"].w, torch.zeros(3))  # type: ignore[arg-type]


def test_a_solve_that_diverges_is_named() -> None:
    engine = Engine(small(far, near, {"name": "neumann", "iterations": 12, "alpha": 1.0}))
    with pytest.raises(NonfiniteError, match=r"the response of 'net' by neumann.* is not finite") as caught:
        engine.run()
    assert "problem 'upper', step 1 (iteration 1), instruction %2 respond" in str(caught.value)
    assert torch.equal(engine.modules["upper"].x, torch.zeros(3))  # type: ignore[arg-type]


def test_parameters_that_an_optimiser_has_spoiled_reach_no_checkpoint(tmp_path: Path) -> None:
    engine = Engine(small(far, near, "finite_difference"))
    with torch.no_grad():
        engine._program.parameters("net")[0][1] = torch.inf
    with pytest.raises(RunError, match="the parameter 'w' of 'net' is not finite"):
        engine.save(tmp_path / "state.pt")
    assert not (tmp_path / "state.pt").exists()


@pytest.mark.parametrize("every", [1, 5])
def test_flags_that_are_looked_at_later_let_nothing_through(spec: Callable[..., Path], every: int) -> None:
    """As on an accelerator: the error comes an update late at most, and before any record or checkpoint."""
    asked = [f"engine.log={{every: {every}}}", f"engine.checkpoint={{every: {every}}}"]
    engine = Engine(spec("finite_difference", broken=False), overrides=asked)
    engine._trainer.executor.watch.later = True
    poison(engine, "net", {7})
    with pytest.raises(NonfiniteError, match="the loss of 'net' is not finite") as caught:
        engine.run(out="part")
    assert "problem 'net', step 7" in str(caught.value) and engine.iteration in (7, 8)
    assert f"checkpoints/{6 // every * every:08d}.pt" in str(caught.value)
    assert len(Path("part/metrics.jsonl").read_text().splitlines()) == 6 // every
    back = Engine(spec("finite_difference", broken=False), overrides=[*asked, "engine.on_nonfinite=rollback"])
    back._trainer.executor.watch.later = True
    poison(back, "net", {7})
    assert back.run().iterations == 12


# -- skip


@pytest.mark.parametrize("method", METHODS)
def test_a_skipped_update_leaves_what_depends_on_it(
    spec: Callable[..., Path], method: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(spec(method, broken=False), overrides=["engine.on_nonfinite={action: skip, limit: 2}"])
    poison(engine, "net", {6, 8})
    engine.run(5)
    before = everything(engine)
    with engine._trainer.drawing():
        engine._trainer.executor.step("net")
    assert_unchanged(before, everything(engine))
    result = engine.run(7)  # the upper answers to the updates that were made
    assert result.metrics["net.skipped"] == 2.0 and result.metrics["rate.skipped"] == 0.0
    assert caplog.text.count("are left out") == 1
    assert all(value.isfinite().all() for module in engine.modules.values() for value in module.state_dict().values())
    assert engine._program["net"].version == 11 and engine._program["rate"].version == 6


@pytest.mark.parametrize("method", ["cg", "unrolled", "remat", "forward_mode"])
def test_a_skipped_upper(spec: Callable[..., Path], method: str) -> None:
    engine = Engine(spec(method, broken=False), overrides=["engine.on_nonfinite=skip"])
    poison(engine, "rate", {2})
    engine.run(3)
    before = everything(engine)
    engine.run(1)  # a step of both
    assert_unchanged(before, everything(engine), "rate.")
    assert engine.run(8).metrics["rate.skipped"] == 1.0


def test_an_upper_waits_for_the_first_update_of_its_lower(spec: Callable[..., Path]) -> None:
    for method in ("cg", "unrolled", "forward_mode"):
        engine = Engine(spec(method, broken=False), overrides=["engine.on_nonfinite=skip"])
        poison(engine, "net", {1, 2})
        engine.run(2)
        rate = engine._program["rate"]
        assert (rate.version, rate.skipped) == (0, 1)
        engine.run(2)
        assert rate.version == 1


def test_skipping_ends_at_its_limit(spec: Callable[..., Path]) -> None:
    engine = Engine(spec(broken=False), overrides=["engine.on_nonfinite={action: skip, limit: 2}"])
    poison(engine, "net", {2, 3, 4})
    with pytest.raises(NonfiniteError, match="2 updates in a row were left out before it"):
        engine.run()
    assert engine.iteration == 4


def test_a_micro_batch_takes_the_whole_update_with_it(spec: Callable[..., Path], tmp_path: Path) -> None:
    """And a run that is resumed between the two micro-batches leaves the same out."""
    given = ["engine.on_nonfinite=skip", "problems.net.gradient_accumulation=2", "engine.checkpoint={every: 1000}"]
    for method in ("cg", "unrolled", "remat"):
        whole, cut, resumed = (Engine(spec(method, broken=False), overrides=given) for _ in range(3))
        for engine in (whole, cut):
            poison(engine, "net", {5})
        whole.run(12)
        cut.run(5)
        cut.save("state.pt")
        resumed.restore("state.pt")
        resumed.run(7)
        assert whole._program["net"].skipped == 1 and whole._program["net"].version == 5
        for name, module in whole.modules.items():
            for key, value in module.state_dict().items():
                assert torch.equal(value, resumed.modules[name].state_dict()[key]), (method, name, key)


THREE = """\
  prior:
    parameters: {mean: {shape: [], init: 0.1}}
    loss: program:above
    optimizer: {target: torch.optim.SGD, lr: 0.1}
edges:
  - {upper: prior, lower: rate, flow: both, method: METHOD}
"""


@pytest.mark.parametrize("method", ["cg", "unrolled"])
def test_three_levels(spec: Callable[..., Path], method: str) -> None:
    path = spec(method, broken=False)
    text = path.read_text().replace("edges:\n", THREE.replace("METHOD", method))
    text = text.replace("program:judge", "program:middle")
    path.write_text(text)
    engine = Engine(path, overrides=["engine.on_nonfinite=skip"])
    poison(engine, "net", {3})
    poison(engine, "rate", {2})
    result = engine.run(8)
    assert [result.metrics[f"{name}.skipped"] for name in ("net", "rate", "prior")] == [1.0, 1.0, 0.0]
    assert all(value.isfinite().all() for module in engine.modules.values() for value in module.state_dict().values())
    stopped = Engine(path)
    poison(stopped, "rate", {2})
    with pytest.raises(NonfiniteError, match="'rate' is not finite"):
        stopped.run()


# -- rollback


def test_a_run_goes_back_and_on_another_way(spec: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    path = spec(broken=False)
    given = ["engine.on_nonfinite={action: rollback, limit: 2}", "engine.checkpoint={every: 3}"]
    for folder in (None, "part"):
        engine = Engine(path, overrides=given)
        poison(engine, "net", {8})
        result = engine.run(out=folder)
        assert result.iterations == 12 and engine._program["net"].version == 12
        assert [row["iteration"] for row in result.history] == list(range(1, 13))
        plain = Engine(path, overrides=given).run().history
        assert result.history[5] == plain[5] and result.history[6] != plain[6]
        assert "the loss of 'net' is not finite (iteration 8): back to iteration 6" in caplog.text
    assert len(Path("part/metrics.jsonl").read_text().splitlines()) == 12


def test_a_run_that_goes_back_too_often_stops(spec: Callable[..., Path]) -> None:
    engine = Engine(
        spec(), overrides=["engine.on_nonfinite={action: rollback, limit: 2}", "engine.checkpoint={every: 100}"]
    )
    with pytest.raises(NonfiniteError, match="after the run has gone back 2 times"):
        engine.run()


# -- settings


def test_settings_are_checked(spec: Callable[..., Path]) -> None:
    with pytest.raises(SpecError, match="rollback goes back to a checkpoint, but none is made"):
        Engine(spec(), overrides=["engine.on_nonfinite=rollback"])
    with pytest.raises(SpecError, match=r"engine\.on_nonfinite: 'skp' is not an action"):
        Engine(spec(), overrides=["engine.on_nonfinite=skp"])
    with pytest.raises(SpecError, match="only fp16 scales a loss"):
        Engine(spec(), overrides=["problems.net.scaler={init_scale: 8.0}"])
    with pytest.raises(ConfigError, match="checkpoint_every beside it"):
        EngineConfig(on_nonfinite="rollback")
