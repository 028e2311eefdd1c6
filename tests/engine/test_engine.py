"""The engine in Python and in a notebook: hypergradients, validation, live objects, checkpoints, what goes wrong."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from betty import BettyError, Engine, RunError, Spec, SpecError
from tests.engine.test_run import same, weights


def everything(engine: Engine) -> Any:
    """All that a hypergradient could change, as values that compare."""
    program = engine._program
    streams = [problem.stream.peek() for problem in program.problems.values() if problem.stream]
    states = [copy.deepcopy(p.optimizer.state_dict()) for p in program.problems.values() if p.optimizer]
    counters = [(p.count, p.version, len(p.kept), len(p.tape)) for p in program.problems.values()]
    randoms = (random.getstate(), str(np.random.get_state(legacy=True)), torch.get_rng_state().tolist())
    return str((weights(engine), streams, states, counters, randoms))


@pytest.mark.parametrize("method", ["finite_difference", "cg", "neumann", "unrolled"])
def test_hypergradient_changes_nothing(spec: Path, method: str) -> None:
    torch.set_printoptions(profile="full")
    try:
        engine = Engine(spec, overrides=[f"edges.0.method={method}"])
        engine.run(3)
        before = everything(engine)
        first, second = engine.hypergradient("weigher"), engine.hypergradient("weigher")
        assert everything(engine) == before
    finally:
        torch.set_printoptions(profile="default")
    assert list(first) == ["logit"] and first["logit"].shape == (96,)
    assert torch.equal(first["logit"], second["logit"])
    assert first["logit"].abs().sum() > 0


def test_hypergradient_of_a_leaf_is_its_gradient(spec: Path) -> None:
    engine = Engine(spec, overrides=["problems.classifier.module.args.dropout=0.0"])
    x, y, index = torch.randn(8, 4), torch.randint(0, 3, (8,)), torch.arange(8)
    found = engine.hypergradient("classifier", {"classifier": (x, y, index)})
    net, logit = (
        copy.deepcopy(engine.modules["classifier"]),
        dict(engine.modules["weigher"].named_parameters())["logit"],
    )
    loss = (torch.sigmoid(logit.detach()[index]) * F.cross_entropy(net(x), y, reduction="none")).mean()
    loss.backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_unknown_problem_is_named(spec: Path) -> None:
    with pytest.raises(BettyError, match="there is no problem 'weighr'; there are classifier, weigher"):
        Engine(spec).hypergradient("weighr")


def test_unrolled_needs_an_update(spec: Path) -> None:
    with pytest.raises(RunError, match="'classifier' has made no update yet"):
        Engine(spec, overrides=["edges.0.method=unrolled"]).hypergradient("weigher")


def test_validation_is_pure_and_in_eval_mode(spec: Path) -> None:
    engine = Engine(spec, overrides=["engine.validate={target: program:accuracy, every: 6}"])
    engine.run(2)
    before = weights(engine)
    first = engine.validate()
    assert list(first) == ["accuracy"] and isinstance(first["accuracy"], float)
    assert engine.validate() == first
    assert same(before, weights(engine))
    assert all(module.training for module in engine.modules.values())
    assert Engine(spec).validate() == {}


def test_early_stopping(spec: Path) -> None:
    overrides = [
        "engine.iterations=400",
        "engine.validate={target: program:accuracy, every: 10}",
        "engine.early_stopping={metric: accuracy, mode: max, patience: 2}",
    ]
    result = Engine(spec, overrides=overrides).run()
    assert result.reason == "stopped early" and result.iterations < 400
    iterations, values = result.history.column("validate.accuracy")
    assert iterations[-1] == result.iterations
    assert max(values) == values[-3]


def test_early_stopping_on_what_is_not_measured(spec: Path) -> None:
    overrides = [
        "engine.validate={target: program:accuracy, every: 2}",
        "engine.early_stopping={metric: acuracy}",
    ]
    with pytest.raises(RunError, match=r"watches 'acuracy', which validate does not return.*did you mean 'accuracy'"):
        Engine(spec, overrides=overrides).run()


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.float32), ("fp64", torch.float64)]
)
def test_precision(spec: Path, precision: str, dtype: torch.dtype) -> None:
    overrides = [f"engine.precision={precision}", "engine.validate={target: program:accuracy, every: 6}"]
    engine = Engine(spec, overrides=overrides)
    result = engine.run()
    assert next(engine.modules["classifier"].parameters()).dtype is dtype
    assert result.metrics["validate.accuracy"] > 0.4
    training = Engine(spec, overrides=overrides[:1])
    outputs = []
    training.modules["classifier"].register_forward_hook(lambda module, args, output: outputs.append(output.dtype))
    training.run(1)
    assert set(outputs) == {torch.bfloat16 if precision == "bf16" else dtype}


def test_live_objects_stand_in_for_targets() -> None:
    net = nn.Linear(2, 1, bias=False)

    def fit(batch: tuple[Tensor, Tensor], model: Any, decay: Any) -> Tensor:
        x, y = batch
        return F.mse_loss(model(x), y) + decay.parameters["log"].exp() * net.weight.square().sum()

    def judge(batch: tuple[Tensor, Tensor], model: Any) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    data = [(torch.randn(8, 2), torch.randn(8, 1))]
    spec = Spec.model_validate(
        {
            "name": "live",
            "problems": {
                "model": {
                    "module": net,
                    "loss": fit,
                    "data": data,
                    "optimizer": torch.optim.SGD(net.parameters(), lr=0.1),
                    "scheduler": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
                },
                "decay": {
                    "parameters": {"log": {"init": -2.0}},
                    "loss": judge,
                    "data": data,
                    "optimizer": {"target": torch.optim.Adam, "lr": 0.05},
                },
            },
            "edges": [{"upper": "decay", "lower": "model", "method": "cg"}],
            "engine": {"iterations": 20, "device": "cpu"},
        }
    )
    engine = Engine(spec)
    before = net.weight.detach().clone()
    result = engine.run(write=False)
    assert engine.modules["model"] is net
    assert not torch.equal(before, net.weight)
    assert result.metrics["decay.loss"] > 0


def test_representations(spec: Path) -> None:
    engine = Engine(spec)
    assert repr(engine) == engine.explain() and engine.explain().startswith("plan blobs")
    shown = engine._repr_html_()
    assert "<svg" in shown and "plan blobs" in shown


def test_checkpoints_are_kept_and_restored(spec: Path) -> None:
    engine = Engine(spec, overrides=["engine.checkpoint={every: 4, keep: 2}"])
    result = engine.run(write=True)
    assert result.folder is not None
    saved = sorted((result.folder / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["00000008.pt", "00000012.pt"]
    other = Engine(spec)
    other.restore(saved[-1])
    assert other.iteration == 12 and same(weights(engine), weights(other))
    batch = {"classifier": (torch.randn(8, 4), torch.randint(0, 3, (8,)), torch.arange(8))}
    one, two = engine.hypergradient("weigher", batch), other.hypergradient("weigher", batch)
    assert one["logit"].shape == two["logit"].shape


def test_a_file_that_is_no_checkpoint(spec: Path) -> None:
    Path("broken.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(RunError, match=r"broken\.pt is no checkpoint"):
        Engine(spec).restore("broken.pt")


def test_targets_that_raise_when_they_are_called(spec: Path) -> None:
    program = spec.parent / "program.py"
    program.write_text(program.read_text() + "\n\ndef bad_net():\n    raise ValueError('no width')\n")
    with pytest.raises(SpecError) as caught:
        Engine(spec, overrides=["problems.classifier.module=program:bad_net"])
    text = str(caught.value)
    assert "problems.classifier.module: calling the target raised ValueError: no width, at " in text
    assert re.search(r"program\.py:\d+", text)


def test_a_module_that_is_none(spec: Path) -> None:
    with pytest.raises(SpecError, match="the target of 'module' gave TensorDataset"):
        Engine(spec, overrides=["problems.classifier.module={target: program:blobs, args: {count: 3}}"])


def test_unrolled_through_an_optimizer_without_a_differentiable_update(spec: Path) -> None:
    overrides = ["edges.0.method=unrolled", "problems.classifier.optimizer={target: torch.optim.Rprop, lr: 0.01}"]
    with pytest.raises(SpecError, match="whose optimizer is Rprop"):
        Engine(spec, overrides=overrides)


def test_missing_device(spec: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    with pytest.raises(RunError, match="device 'cuda' is not available here"):
        Engine(spec, overrides=["engine.device=cuda"])


def test_data_that_runs_dry_is_named(spec: Path) -> None:
    program = spec.parent / "program.py"
    program.write_text(program.read_text() + "\n\ndef nothing():\n    return []\n")
    with pytest.raises(RunError, match="the data of 'weigher' holds no batch"):
        Engine(spec, overrides=["problems.weigher.data=program:nothing"])


def test_errors_in_a_loss_name_the_instruction(spec: Path) -> None:
    program = spec.parent / "program.py"
    extra = "\n\ndef late(batch, classifier):\n    if torch.is_grad_enabled() and batch[0].sum() != 0:\n"
    program.write_text(program.read_text() + extra + "        raise ValueError('too late')\n")
    engine = Engine(spec, overrides=["problems.weigher.loss=program:late"])
    with pytest.raises(ValueError, match="too late") as caught:
        engine.run()
    assert caught.value.__notes__ == ["in instruction %1 (differentiate) of problem 'weigher', step 1"]


def test_a_parameter_may_not_take_a_module_s_own_name(spec: Path) -> None:
    overrides = ["problems.weigher.parameters={type: {}, training: {}, logit: {shape: [96]}}"]
    with pytest.raises(SpecError, match=r"'type' is a name that every torch\.nn\.Module uses itself") as caught:
        Engine(spec, overrides=overrides)
    assert len(caught.value.diagnostics) == 2


def test_a_module_without_shapes(spec: Path) -> None:
    overrides = ["problems.classifier.module={target: torch.nn.LazyLinear, args: {out_features: 3}}"]
    with pytest.raises(SpecError, match="has parameters without a shape"):
        Engine(spec, overrides=overrides)


def test_null_clears_a_field(spec: Path) -> None:
    overrides = ["problems.classifier.gradient_clipping=0.5", "problems.classifier.gradient_clipping=null"]
    assert Engine(spec, overrides=overrides).spec.problems["classifier"].gradient_clipping is None


@pytest.mark.parametrize("method", ["finite_difference", "unrolled"])
def test_a_step_cut_short_leaves_no_gradient_behind(spec: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = [f"edges.0.method={method}", "problems.classifier.module.args.dropout=0.0"]
    cut, whole = Engine(spec, overrides=overrides), Engine(spec, overrides=overrides)
    executors = [engine._trainer.executor for engine in (cut, whole)]
    batch = (torch.randn(32, 4), torch.randint(0, 3, (32,)), torch.arange(32))
    for engine in (cut, whole):
        engine._program["classifier"].stream = _Same(batch)  # type: ignore[assignment]
    with monkeypatch.context() as patch:
        patch.setattr(executors[0], "_apply", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            executors[0].step("classifier")
    for executor in executors:
        executor.step("classifier")
    pairs = zip(cut.modules["classifier"].parameters(), whole.modules["classifier"].parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
    assert cut._program["classifier"].count == 1


class _Same:
    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def next(self) -> Any:
        return self._batch


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("memory", "method"), [("1 GiB", "unrolled(steps=10)"), ("12 KB", "identity + finite_difference")]
)
def test_auto_obeys_the_memory_budget(spec: Path, memory: str, method: str) -> None:
    asked = ["edges.0.method=auto", "problems.classifier.unroll=10", f"engine.memory={memory}"]
    engine = Engine(spec, overrides=asked)
    assert method in engine.explain()
    engine.run(10)
