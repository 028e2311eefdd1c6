"""Lower precisions: hypergradients and results are those of single precision; steps that overflow are left out."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from betty import Engine, SpecError
from betty.backends.torch.finite import NonfiniteError

EXAMPLES, WIDTH = 16, 32
CLEANING = Path(__file__).parents[2] / "examples" / "hyper_cleaning" / "spec.yaml"


class Encoder(nn.Module):
    """Two transformer layers over eight tokens."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x).mean(1))
        return out


def examples(seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (EXAMPLES,), generator=generator)
    x = torch.randn(EXAMPLES, 8, WIDTH, generator=generator)
    x[:, :, :4] += 2 * functional.one_hot(y, 4)[:, None]
    return [(x, y)]


def weighted(batch: Any, net: Any, weights: Any) -> Tensor:
    x, y = batch
    weight = torch.sigmoid(weights.parameters["logit"])
    return (weight * functional.cross_entropy(net(x), y, reduction="none")).mean()


def clean(batch: Any, net: Any) -> Tensor:
    x, y = batch
    return functional.cross_entropy(net(x), y)


SGD = {"target": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9}
ADAM = {"target": "torch.optim.Adam", "lr": 1e-3}
METHODS: dict[str, tuple[Any, Any, Any]] = {
    # the method, its exact counterpart in single precision, the lower's optimiser
    "finite_difference": ("finite_difference", {"inverse": "identity", "product": "reverse"}, SGD),
    "sama": ("sama", {"inverse": "sama", "product": "reverse"}, ADAM),
    "reverse": ({"inverse": "identity", "product": "reverse"}, {"inverse": "identity", "product": "reverse"}, SGD),
    "forward": ({"inverse": "identity", "product": "forward"}, {"inverse": "identity", "product": "reverse"}, SGD),
    "cg": ({"name": "cg", "iterations": 4, "damping": 1.0}, {"name": "cg", "iterations": 4, "damping": 1.0}, SGD),
    "neumann": ({"name": "neumann", "iterations": 4, "alpha": 0.1},) * 2 + (SGD,),
    "unrolled": ({"name": "unrolled", "steps": 3},) * 2 + (SGD,),
    "remat": ({"name": "unrolled", "steps": 3, "remat": True}, {"name": "unrolled", "steps": 3}, SGD),
}


def program(method: Any, usual: str, optimizer: Any = SGD, **lower: Any) -> Engine:
    return Engine(
        {
            "name": "encoder",
            "problems": {
                "net": {
                    "module": {"target": made},
                    "loss": weighted,
                    "data": examples(0),
                    "optimizer": optimizer,
                    "unroll": 3,
                    **lower,
                },
                "weights": {
                    "parameters": {"logit": {"shape": [EXAMPLES]}},
                    "loss": clean,
                    "data": examples(1),
                    "optimizer": {"target": "torch.optim.Adam", "lr": 0.01},
                },
            },
            "edges": [{"upper": "weights", "lower": "net", "method": method}],
            "engine": {"device": "cpu", "precision": usual, "log": {"every": 1}},
        }
    )


def made() -> Encoder:
    torch.manual_seed(0)
    return Encoder()


def hypergradient(method: Any, precision: str, optimizer: Any) -> Tensor:
    engine = program(method, precision, optimizer)
    engine.run(3)
    return engine.hypergradient("weights")["logit"]


@functools.cache
def exact(name: str) -> Tensor:
    _, method, optimizer = METHODS[name]
    return hypergradient(method, "fp32", optimizer)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", METHODS)
def test_hypergradients_on_an_encoder(name: str, precision: str) -> None:
    method, _, optimizer = METHODS[name]
    found = hypergradient(method, precision, optimizer)
    assert functional.cosine_similarity(found, exact(name), 0) > 0.99
    assert float(found.norm() / exact(name).norm()) == pytest.approx(1.0, abs=0.1)


SCALED = {"init_scale": 2.0**26, "growth_interval": 4}


@pytest.mark.parametrize("name", ["cg", "sama", "unrolled", "remat"])
def test_steps_that_overflow_leave_everything_as_it_was(name: str) -> None:
    method, _, optimizer = METHODS[name]
    engine = program(method, "fp16", optimizer, scaler=SCALED)
    net, weights = (engine._program[key] for key in ("net", "weights"))
    before = {key: value.clone() for key, value in net.module.state_dict().items()}
    skipped = 0
    while not net.version:
        skipped += 1
        assert net.scaler.get_scale() == 2.0 ** (27 - skipped)
        engine.run(1)
        if net.version:
            break
        assert all(torch.equal(value, before[key]) for key, value in net.module.state_dict().items())
        assert not net.optimizer.state and net.last is None and not net.kept  # type: ignore[union-attr]
        assert not net.tape and not net.history.records and net.history.open is None and net.open_segment is None
        assert not weights.version and not weights.memories and not weights.optimizer.state  # type: ignore[union-attr]
    assert net.skipped == skipped - 1 > 3 and weights.skipped == net.skipped // 3
    row = engine.run(12).metrics
    assert row["net.skipped"] >= net.skipped and row["weights.skipped"] >= 1
    assert net.version + net.skipped == net.count and weights.version + weights.skipped == weights.count
    assert all(bool(value.isfinite().all()) for value in net.module.state_dict().values())
    assert "net.skipped" not in program(method, "bf16", optimizer).run(1).metrics


def test_a_scale_that_has_shrunk_to_nothing_is_an_error() -> None:
    engine = program("finite_difference", "fp16", scaler={"init_scale": 8.0, "backoff_factor": 0.01})
    with torch.no_grad():
        engine._program.parameters("net")[0].fill_(torch.nan)
    with pytest.raises(NonfiniteError, match="although the loss scale of 'net' has shrunk to"):
        engine.run(12)


@pytest.mark.parametrize("name", ["cg", "unrolled", "remat"])
def test_a_run_in_half_precision_is_resumed_bit_for_bit(name: str, tmp_path: Path) -> None:
    method, _, optimizer = METHODS[name]
    whole, cut, resumed = (program(method, "fp16", optimizer, scaler=SCALED) for _ in range(3))
    for engine in (cut, resumed, whole):
        engine._trainer.executor.recorder.record()
    whole.run(24)
    cut.run(17)  # amid a loop, after steps that were skipped
    cut.save(tmp_path / "state.pt")
    resumed.restore(tmp_path / "state.pt")
    resumed.run(7)
    assert whole._program["net"].scaler.state_dict() == resumed._program["net"].scaler.state_dict()
    for key, module in whole.modules.items():
        for part, value in module.state_dict().items():
            assert torch.equal(value, resumed.modules[key].state_dict()[part]), (key, part)


class Narrow(Encoder):
    """An encoder that holds its parameters in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.bfloat16)).float()


@pytest.mark.parametrize("name", ["finite_difference", "cg", "reverse"])
def test_parameters_that_are_held_in_half_precision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, _, optimizer = METHODS[name]

    def narrow() -> Encoder:
        torch.manual_seed(0)
        return Narrow()

    monkeypatch.setattr(f"{__name__}.made", narrow)
    found = hypergradient(method, "fp32", optimizer)
    assert found.dtype == torch.float32
    assert functional.cosine_similarity(found, exact(name), 0) > 0.97


@functools.cache
def accuracy(precision: str) -> float:
    asked = ["iterations=300", f"precision={precision}", "validate.every=300"]
    found = Engine(CLEANING, overrides=[f"engine.{one}" for one in asked]).run().metrics
    return found["validate.accuracy"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_hyper_cleaning_learns_as_much(precision: str) -> None:
    assert accuracy(precision) > accuracy("fp32") - 0.03


def test_the_plan_shows_precisions_that_differ() -> None:
    text = program("cg", "fp32", precision="bf16").explain()
    assert "fp32 · cpu" in text and "params bf16" in text
    with pytest.raises(SpecError, match="only fp16 scales a loss"):
        program("cg", "bf16", scaler=SCALED)
