"""Compiled programs compute what eager ones compute, to rounding; what is not compiled is named once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from betty import Engine, SpecError
from betty.backends.torch.compiling.backend import Backend
from betty.ir.text import graph_to_text, parse_graph, parse_plan, plan_to_text
from tests.classes.two_ways import as_classes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::UserWarning:torch")

FORWARD = {"inverse": "identity", "product": "forward"}
REVERSE = {"inverse": "identity", "product": "reverse"}
CG = {"inverse": {"name": "cg", "iterations": 2, "damping": 5.0}, "product": "reverse"}
CG_FORWARD = {"inverse": {"name": "cg", "iterations": 2, "damping": 5.0}, "product": "forward"}


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.fixture
def named(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was said not to be compiled."""
    caplog.set_level(logging.WARNING, "betty")
    logging.getLogger("betty").propagate = True
    return lambda: [text for text in caplog.messages if text.startswith("engine.compile")]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


class Encoder(nn.Module):
    """A transformer layer over the four features as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(1, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leave(self.layer(self.enter(x[..., None])).mean(1))
        return out


def blobs(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 4, generator=generator), torch.randint(0, 3, (count,), generator=generator))


def weighted(batch: Any, low: Any, up: Any) -> dict[str, Tensor]:
    x, y = batch
    out = low(x)
    decay = sum((one**2).sum() for one in low.parameters.values())
    loss = (torch.sigmoid(up.parameters["w"])[y] * F.cross_entropy(out, y, reduction="none")).mean() + 1e-3 * decay
    # The square root has an infinite slope at zero, which must not reach the gradient.
    return {"loss": loss, "accuracy": (out.argmax(1) == y).float().mean(), "zero": (0 * out.sum()).sqrt()}


def clean(batch: Any, low: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(low(x), y)


def engine(
    backend: str | bool,
    method: Any = "finite_difference",
    *,
    module: Callable[[], nn.Module] = mlp,
    loss: Callable[..., Any] = weighted,
    count: int = 22,
    **low: Any,
) -> Engine:
    """Batches of 8, 8 and 6: the last of an epoch is smaller."""
    torch.manual_seed(0)
    lower = {
        "module": module(),
        "loss": loss,
        "data": {"target": blobs(count, 1), "batch_size": 8},
        "optimizer": {"target": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9},
        "unroll": 2,
        **low,
    }
    upper = {
        "parameters": {"w": {"shape": [3]}},
        "loss": clean,
        "data": {"target": blobs(16, 2), "batch_size": 8},
        "optimizer": {"target": "torch.optim.SGD", "lr": 1.0},
    }
    return Engine(
        {
            "name": "compiled",
            "problems": {"low": lower, "up": upper},
            "edges": [{"upper": "up", "lower": "low", "method": method}],
            "engine": {"iterations": 20, "device": "cpu", "compile": backend, "log": {"every": 1}},
        }
    )


def state(engine: Engine) -> dict[str, Tensor]:
    named = engine.modules.items()
    return {f"{name}.{key}": value.clone() for name, one in named for key, value in one.state_dict().items()}


def assert_alike(eager: Engine, compiled: Engine, iterations: int = 20, tolerance: float = 1e-5) -> None:
    """The same parameters, buffers and metrics after training; the upper's parameters have moved."""
    before = state(eager)
    mine, theirs = eager.run(iterations), compiled.run(iterations)
    expected, found = state(eager), state(compiled)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=tolerance, atol=tolerance)
    assert theirs.metrics == pytest.approx(mine.metrics, rel=10 * tolerance, abs=10 * tolerance)
    assert (before["up.w"] != expected["up.w"]).any()


@pytest.mark.parametrize(
    ("backend", "method", "count"),
    [
        ("aot_eager", "finite_difference", 16),
        ("eager", "sama", 22),
        ("aot_eager", FORWARD, 16),
        ("eager", REVERSE, 22),
        ("eager", CG, 16),
        ("eager", CG_FORWARD, 16),
    ],
    ids=str,
)
def test_equals_eager(backend: str, method: Any, count: int, named: Callable[[], list[str]]) -> None:
    """Dropout, batch normalisation, metrics, and micro-batches of one size and of two."""
    assert_alike(engine(False, method, count=count), engine(backend, method, count=count))
    assert named() == []


def test_accumulation_and_a_fourth_size(named: Callable[[], list[str]]) -> None:
    options: dict[str, Any] = {"gradient_accumulation": 2, "unroll": 1, "count": 19}
    assert_alike(engine(False, CG, **options), engine("eager", CG, **options))
    assert named() == []


def test_encoder(named: Callable[[], list[str]]) -> None:
    options: dict[str, Any] = {"module": Encoder, "count": 16}
    assert_alike(engine(False, FORWARD, **options), engine("eager", FORWARD, **options))
    assert named() == []


@pytest.mark.parametrize("method", [FORWARD, REVERSE], ids=str)
def test_bf16(method: Any, named: Callable[[], list[str]]) -> None:
    options: dict[str, Any] = {"module": plain, "precision": "bf16", "count": 16}
    eager, compiled = (engine(one, method, **options) for one in (False, "aot_eager"))
    assert_alike(eager, compiled, 6, tolerance=5e-3)
    assert named() == []


@pytest.mark.slow
def test_inductor(named: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of the real compiler: step, upper gradient and the product, with dropout."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    options: dict[str, Any] = {"module": lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.3)), "count": 16}
    assert_alike(engine(False, FORWARD, **options), engine(True, FORWARD, **options))
    assert named() == []


def test_trajectories_run_eagerly(named: Callable[[], list[str]]) -> None:
    method = {"name": "unrolled", "steps": 2}
    assert_alike(engine(False, method, module=plain), engine("eager", method, module=plain), 6, tolerance=0.0)
    (only,) = named()
    assert "'low': all of it runs eagerly: unrolled needs gradients whose graph can be differentiated again" in only


def test_kept_graphs_are_not_written_to(named: Callable[[], list[str]]) -> None:
    method = {"name": "unrolled", "steps": 2}
    assert_alike(engine(False, method), engine("eager", method), 6, tolerance=0.0)
    assert "'up': all of it runs eagerly: it writes to buffers that the kept graphs of 'low' hold" in named()[1]


def broken(batch: Any, low: Any, up: Any) -> Tensor:
    x, y = batch
    out = low(x)
    torch._dynamo.graph_break()
    return (torch.sigmoid(up.parameters["w"])[y] * F.cross_entropy(out, y, reduction="none")).mean()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def opaque(batch: Any, low: Any, up: Any) -> Tensor:
    x, y = batch
    return (torch.sigmoid(up.parameters["w"])[y] * F.cross_entropy(low(x), y, reduction="none")).mean()


def test_a_graph_break_leaves_pieces(named: Callable[[], list[str]]) -> None:
    assert_alike(engine(False, FORWARD, loss=broken), engine("eager", FORWARD, loss=broken))
    between, products = named()
    assert "'low': what lies between the compiled pieces of the loss runs eagerly: Unsupported: " in between
    assert "'low': its products by forward mode runs eagerly: Unsupported: " in products


def test_a_loss_that_cannot_be_compiled(named: Callable[[], list[str]]) -> None:
    assert_alike(engine(False, REVERSE, loss=opaque), engine("eager", REVERSE, loss=opaque))
    assert len(named()) == 2 and all("'low'" in one for one in named())


def counting() -> Callable[..., Tensor]:
    """A loss whose number of calls is part of its value, so that no code serves twice."""
    calls = [0]

    def loss(batch: Any, low: Any, up: Any) -> Tensor:
        calls[0] += 1
        return weighted(batch, low, up)["loss"] * (1 + calls[0] / 1000)

    return loss


def test_code_that_never_serves_twice_ends_eagerly(
    named: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("betty.backends.torch.compiling.losses.VARIANTS", 3)
    options: dict[str, Any] = {"module": plain, "unroll": 10}
    assert_alike(engine(False, loss=counting(), **options), engine("eager", loss=counting(), **options))
    assert len(named()) == 1 and "'low': the loss and its gradient runs eagerly" in named()[0]


def test_a_compiler_that_fails(named: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("register allocation\nfailed")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx_inner", fail)
    options: dict[str, Any] = {"module": plain, "count": 16}
    assert_alike(engine(False, FORWARD, **options), engine(True, FORWARD, **options), 4)
    assert sorted(named()) == [
        "engine.compile: 'low': a part of its products runs eagerly: RuntimeError: register allocation",
        "engine.compile: 'low': a part of the loss or of its gradient runs eagerly: RuntimeError: register allocation",
        "engine.compile: 'up': a part of the loss or of its gradient runs eagerly: RuntimeError: register allocation",
    ]


def test_no_compiler_at_all(named: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise RuntimeError("no working compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", fail)
    assert_alike(engine(False), engine(True), 4, tolerance=0.0)
    assert len(named()) == 1 and "there is no C++ compiler on this machine" in named()[0]


def test_a_wrong_product_is_noticed(named: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = Backend.compile

    def wrong(self: Backend, graph: Any, inputs: Any) -> Any:
        code = compiled(self, graph, inputs)
        return lambda *all_: tuple(2 * one for one in code(*all_))

    monkeypatch.setattr("betty.backends.torch.compiling.products.Backend.compile", wrong)
    found = engine("eager", REVERSE, module=plain)
    monkeypatch.setattr(found._program["low"].objective, "quick", found._program["low"].objective.loss)
    monkeypatch.setattr(found._program["up"].objective, "quick", found._program["up"].objective.loss)
    assert_alike(engine(False, REVERSE, module=plain), found, tolerance=0.0)
    assert ["differs from the eager one by 1.0e+00" in one for one in named()] == [True]


def test_evaluations_are_pure() -> None:
    found = engine("eager", FORWARD)
    found.run(4)
    before, random = state(found), torch.get_rng_state()
    first, second = found.hypergradient("up"), found.hypergradient("up")
    assert torch.equal(first["w"], second["w"]) and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in state(found).items())


def test_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, first, second = (engine("eager", REVERSE, count=16) for _ in range(3))
    whole.run(9)
    first.run(5)
    first.save(tmp_path / "state.pt")
    second.restore(tmp_path / "state.pt")
    second.run(4)
    expected = state(whole)
    assert all(torch.equal(value, expected[key]) for key, value in state(second).items())


def test_three_levels(named: Callable[[], list[str]]) -> None:
    """One solve answers for two problems; the middle one is a lower as well."""
    engines = []
    for compiled in (False, "eager"):
        torch.manual_seed(0)
        top = {"module": nn.Linear(4, 1), "loss": rated, "data": {"target": blobs(8, 3), "batch_size": 8}}
        spec = {
            "name": "levels",
            "problems": {"low": _problem(plain(), gated, 1), "up": _problem(nn.Linear(4, 1), regular, 2), "top": top},
            "edges": [
                {"upper": "up", "lower": "low", "method": FORWARD},
                {"upper": "top", "lower": "up", "method": REVERSE},
                {"upper": "top", "lower": "low", "method": FORWARD, "flow": "up"},
            ],
            "engine": {"iterations": 6, "device": "cpu", "compile": compiled},
        }
        top["optimizer"] = {"target": "torch.optim.SGD", "lr": 1.0}
        engines.append(Engine(spec))
    before = state(engines[0])
    for one in engines:
        one.run()
    expected, found = (state(one) for one in engines)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
        assert not torch.equal(value, before[key])
    assert named() == []


def _problem(module: nn.Module, loss: Callable[..., Any], seed: int) -> dict[str, Any]:
    return {
        "module": module,
        "loss": loss,
        "data": {"target": blobs(16, seed), "batch_size": 8},
        "optimizer": {"target": "torch.optim.SGD", "lr": 0.1},
    }


def gated(batch: Any, low: Any, up: Any) -> Tensor:
    x, y = batch
    return (torch.sigmoid(up(x))[:, 0] * F.cross_entropy(low(x), y, reduction="none")).mean()


def regular(batch: Any, up: Any, low: Any, top: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(low(x), y) + (torch.sigmoid(top(x)) * up(x) ** 2).mean()


def rated(batch: Any, low: Any, up: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(low(x), y) + (up(x) ** 2).mean()


@pytest.mark.parametrize("method", ["darts", "unrolled"])
def test_programs_of_classes(method: str, named: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step that reads other problems as attributes; the code of the graphs is not what is tested here."""
    monkeypatch.setattr(Backend, "compile", lambda self, graph, inputs: graph.forward)
    eager, compiled = as_classes(method), as_classes(method, compile=True)
    for one in (eager, compiled):
        torch.manual_seed(0)
        one.run()
    expected = state(eager)
    for key, value in state(compiled).items():
        torch.testing.assert_close(value, expected[key])
    assert "compile: true" in compiled.to_spec() and "compiled" in compiled.explain()
    assert len(named()) == (2 if method == "unrolled" else 0)


def test_errors_of_the_loss_are_its_own(named: Callable[[], list[str]]) -> None:
    def loss(batch: Any, low: Any, up: Any) -> Tensor:
        raise LookupError("no such column")

    with pytest.raises(Exception, match="no such column"):
        engine("eager", loss=loss).run(1)


def test_plans_say_so() -> None:
    assert engine(False).explain().splitlines()[0] == "plan compiled   2 problems · 1 edge · fp32 · cpu"
    assert engine(True).explain().splitlines()[0].endswith("fp32 · cpu · compiled")
    partly = engine("aot_eager")
    assert partly.explain().splitlines()[0].endswith("fp32 · cpu · compiled (aot_eager)")
    assert parse_plan(plan_to_text(partly.plan)) == partly.plan
    assert parse_graph(graph_to_text(partly.graph)) == partly.graph


def test_a_wrong_compiler() -> None:
    with pytest.raises(SpecError, match=r"engine\.compile: found 'inducter'") as caught:
        engine("inducter")
    assert "true, false, or what compiles: one of inductor, aot_eager, eager" in str(caught.value)
    assert "try       inductor" in str(caught.value)
