"""Activations that are computed again change no number; the memory that is expected is what is then held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from betty import Engine, SpecError
from betty.backends.torch.profiler import StorageWatch, held_bytes
from betty.backends.torch.recompute import recompute
from betty.ir.text import graph_to_text, parse_graph, parse_plan, plan_to_text

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")
FORWARD = {"inverse": "identity", "product": "forward"}
CG = {"inverse": {"name": "cg", "iterations": 3, "damping": 5.0}, "product": "reverse"}
CG_FORWARD = {"inverse": {"name": "cg", "iterations": 2, "damping": 5.0}, "product": "forward"}
METHODS = {
    "finite_difference": "finite_difference",
    "sama": "sama",
    "cg": CG,
    "neumann": {"name": "neumann", "iterations": 2},
    "identity + forward": FORWARD,
    "cg + forward": CG_FORWARD,
    "unrolled": "unrolled",
    "remat": {"name": "unrolled", "remat": True},
    "forward_mode": "forward_mode",
    "penalty": "penalty",
}


class Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm = nn.GroupNorm(2, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.relu(self.norm(self.first(x))))
        return out


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), *(Residual(8) for _ in range(4)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


class Encoder(nn.Module):
    """Transformer layers over 16 tokens, with dropout."""

    def __init__(self, dropout: float = 0.1, layers: int = 3) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 16), nn.Linear(16, 3)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=dropout, batch_first=True) for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.leave(x.mean(1))
        return out


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))


def fused() -> nn.Module:
    return Encoder(dropout=0.0)


SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "encoder": (Encoder, (32, 16, 4)),
    "fused": (fused, (32, 16, 4)),
    "ResNet": (resnet, (16, 1, 12, 12)),
    "MLP": (mlp, (64, 20)),
}


def engine(program: str, method: Any, *, again: Any, unroll: int = 1, **settings: Any) -> Engine:
    make, shape = SHAPES[program]

    def weighted(batch: Any, net: Any, weights: Any) -> Tensor:
        x, y = batch
        return (torch.sigmoid(weights.parameters["logit"]) * F.cross_entropy(net(x), y, reduction="none")).mean()

    def clean(batch: Any, net: Any) -> Tensor:
        return F.cross_entropy(net(batch[0]), batch[1])

    torch.manual_seed(0)
    batches = [(torch.randn(shape), torch.randint(0, 3, shape[:1])) for _ in range(2)]
    adam = {"target": "torch.optim.Adam", "lr": 1e-3}
    net = {"module": make, "loss": weighted, "data": batches[:1], "optimizer": adam, "unroll": unroll}
    weights = {"parameters": {"logit": {"shape": [shape[0]]}}, "loss": clean, "data": batches[1:], "optimizer": adam}
    return Engine(
        {
            "name": "memory",
            "problems": {"net": {**net, "activation_checkpointing": again}, "weights": weights},
            "edges": [{"upper": "weights", "lower": "net", "method": method}],
            "engine": {"device": "cpu", **settings},
        }
    )


FOR_ENCODERS = ("finite_difference", "cg", "identity + forward", "unrolled", "remat")


@pytest.mark.parametrize(
    ("program", "method"),
    [
        *(("encoder", name) for name in FOR_ENCODERS),
        *(("ResNet", name) for name in ("sama", "cg", "unrolled")),
        ("fused", "cg"),
    ],
)
def test_the_same_numbers(program: str, method: str) -> None:
    options: dict[str, Any] = {"unroll": 2, "precision": "fp64"}
    plain, again = (engine(program, METHODS[method], again=one, **options) for one in (False, True))
    for one in (plain, again):
        one.run(4)
    for name, module in plain.modules.items():
        for own, other in zip(module.parameters(), again.modules[name].parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("precision", ["bf16"])
def test_dropout_and_half_precision(precision: str) -> None:
    plain, again = (engine("encoder", "sama", again=one, precision=precision) for one in (False, ["layers.*"]))
    assert plain.run(3).metrics["net.loss"] == pytest.approx(again.run(3).metrics["net.loss"], rel=1e-6)


def names(module: nn.Module, *chosen: str) -> list[str]:
    return recompute(module, list(chosen) or None)


def test_blocks_are_members_of_lists_that_have_parts() -> None:
    assert names(Encoder()) == ["layers.0", "layers.1", "layers.2"]
    assert names(resnet()) == ["1", "2", "3", "4"]
    assert names(mlp()) == [""]
    assert names(Encoder(), "layers.[02]", "leave") == ["layers.0", "layers.2", "leave"]
    assert names(Encoder(), "layers.0", "layers.0.linear1") == ["layers.0"]
    module = Encoder()
    assert names(module) == names(module)
    assert isinstance(module.layers[0], nn.TransformerEncoderLayer)
    assert list(module.state_dict()) == list(Encoder().state_dict())


def test_a_part_that_is_not_there() -> None:
    with pytest.raises(SpecError) as caught:
        engine("encoder", "sama", again=["layer.*"])
    (found,) = caught.value.diagnostics
    assert found.message == "the module of 'net' has no part 'layer.*'"
    assert found.field == ("problems", "net", "activation_checkpointing")
    assert "layers.0" in found.expected


MEASURED = [
    ("encoder", "sama", 1, False),
    ("encoder", "cg", 1, False),
    ("encoder", "identity + forward", 1, False),
    ("encoder", "unrolled", 3, False),
    ("ResNet", "sama", 1, False),
    ("ResNet", "sama", 1, True),
    ("ResNet", "neumann", 1, False),
    ("ResNet", "unrolled", 2, False),
    ("MLP", "unrolled", 5, False),
    ("MLP", "cg", 1, False),
]


@pytest.mark.parametrize(("program", "method", "unroll", "again"), MEASURED)
def test_the_expected_peak_is_within_a_quarter_of_the_measured_one(
    program: str, method: str, unroll: int, again: bool
) -> None:
    one = engine(program, METHODS[method], again=again, unroll=unroll)
    assert one.plan.peak is not None
    held = held_bytes(one._program)
    with StorageWatch() as watch:
        one.run(3 * unroll)
    assert one.plan.peak.bytes == pytest.approx(held + watch.peak, rel=0.25)


def test_less_is_expected_where_activations_are_computed_again() -> None:
    plain, again = (engine("ResNet", "sama", again=one).plan.peak for one in (False, True))
    assert plain is not None
    assert again is not None
    assert again.bytes < 0.7 * plain.bytes


def test_plans_say_it_and_are_read_back() -> None:
    one = engine("encoder", "sama", again=True)
    assert "computes activations again" in one.explain()
    assert one.explain().splitlines()[-1].startswith("peak ≈ ")
    assert parse_plan(plan_to_text(one.plan)) == one.plan
    assert parse_graph(graph_to_text(one.graph)) == one.graph
    assert "MB measured, ≈" in one.run(3, profile=True).profile
