"""Half precision in class programs: the loss is scaled, vanishing gradients survive, overflowing steps are skipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from betty import Config, Engine, EngineConfig, ImplicitProblem, RunError


class Low(ImplicitProblem):
    factor = 1.0

    def training_step(self, batch: Any) -> Tensor:
        inputs, targets = batch
        errors = (self(inputs) - targets) ** 2
        return self.factor * (errors * self.high().exp()).mean()  # type: ignore[attr-defined]


class High(ImplicitProblem):
    def forward(self) -> Tensor:
        found: Tensor = self.module.weight
        return found

    def training_step(self, batch: Any) -> Tensor:
        inputs, targets = batch
        return ((self.low(inputs) - targets) ** 2).mean()  # type: ignore[attr-defined]


def program(precision: str, method: Any = "darts", factor: float = 1.0, scale: float = 4096.0, **config: Any) -> Engine:
    torch.manual_seed(0)
    low_net, high_net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), nn.Linear(1, 1)
    data = [[(torch.randn(16, 4), torch.randn(16, 1))] for _ in range(2)]
    low = Low(
        "low",
        Config(type=method, precision=precision, initial_dynamic_scale=scale, darts_alpha=0.1),
        low_net,
        torch.optim.SGD(low_net.parameters(), lr=0.05),
        train_data_loader=data[0],
    )
    low.factor = factor
    high = High("high", Config(), high_net, torch.optim.Adam(high_net.parameters(), lr=0.05), train_data_loader=data[1])
    return Engine(
        problems=[low, high],
        dependencies={"u2l": {high: [low]}, "l2u": {low: [high]}},
        config=EngineConfig(strategy="cpu", **config),
    )


def test_half_precision_trains_as_single_precision_does() -> None:
    half, single = program("fp16"), program("fp32")
    results = [one.run(40).metrics["low.loss"] for one in (half, single)]
    assert results[0] == pytest.approx(results[1], rel=0.05)
    found, exact = (one.hypergradient("high")["weight"] for one in (half, single))
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.02)
    low, high = half.problems
    assert isinstance(low.scaler, torch.amp.GradScaler) and high.scaler is None and "scaler" in low.state_dict()


def test_small_gradients_survive() -> None:
    """A loss of 1e-7 has gradients that half precision does not have; its scale brings them back."""
    norms = []
    for scale in (1.0, 65536.0):
        engine = program("fp16", factor=1e-7, scale=scale)
        found = engine.hypergradient("low")
        norms.append(float(torch.cat([part.flatten() for part in found.values()]).norm()))
    exact = program("fp32", factor=1e-7).hypergradient("low")
    wanted = float(torch.cat([part.flatten() for part in exact.values()]).norm())
    assert norms[1] == pytest.approx(wanted, rel=0.02)
    assert abs(norms[0] - wanted) > 0.2 * wanted


def test_a_step_that_overflows_is_skipped_and_the_scale_shrinks() -> None:
    engine = program("fp16", factor=100.0, scale=2.0**24)
    low = engine.problems[0]
    before = {name: value.clone() for name, value in low.module.state_dict().items()}
    engine.train_step()
    assert all(torch.equal(value, before[name]) for name, value in low.module.state_dict().items())
    assert low.scaler.get_scale() == 2.0**23
    engine.run(30)
    assert low.scaler.get_scale() < 2.0**23
    assert all(value.isfinite().all() for value in low.module.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in low.module.state_dict().items())


def test_updates_that_are_differentiated_are_skipped_as_well() -> None:
    engine = program("fp16", "unrolled", factor=100.0, scale=2.0**24)
    engine.train_step()
    low, high = (engine._program[name] for name in ("low", "high"))
    assert low.version == 0 and not low.tape and high.version == 0 and high.skipped == 1
    engine.run(30)
    assert low.version > 0 and high.version > 0 and low.version + low.skipped == low.count


def test_a_scaler_is_written_into_the_spec() -> None:
    text = program("fp16").to_spec()
    assert "precision: fp16" in text and "init_scale: 4096.0" in text


def test_what_is_not_finite_in_single_precision() -> None:
    with pytest.raises(RunError, match="the loss of 'low' is not finite"):
        program("fp32", factor=torch.nan).run(2)
    skipping = program("fp32", factor=torch.nan, on_nonfinite="skip", nonfinite_limit=2)
    before = {name: value.clone() for name, value in skipping.problems[0].module.state_dict().items()}
    with pytest.raises(RunError, match="2 updates in a row were left out before it"):
        skipping.run(5)
    assert skipping._program["low"].skipped == 2 and skipping._program["high"].version == 0
    assert all(torch.equal(value, before[name]) for name, value in skipping.problems[0].module.state_dict().items())
