"""Trajectories through the engine: checkpoints, profiles, the plan's words, and optimisers without a smooth update."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from betty import Engine
from betty.backends.torch import checkpoint
from betty.ir.diagnostics import SpecError

PROGRAM = """\
import torch


def data():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 2, generator=generator), torch.randn(8, 1, generator=generator)) for _ in range(3)]


def fit(batch, net, decay):
    size = sum(leaf.square().sum() for leaf in net.parameters.values())
    return (net(batch[0]) - batch[1]).square().mean() + decay.parameters["log"].exp() * size


def judge(batch, net):
    return (net(batch[0]) - batch[1]).square().mean()
"""
NET = {"target": "torch.nn.Linear", "args": {"in_features": 2, "out_features": 1}}
SPEC: dict[str, Any] = {
    "name": "trajectories",
    "problems": {
        "net": {
            "module": NET,
            "loss": "program:fit",
            "data": "program:data",
            "optimizer": {"target": "torch.optim.Adam", "lr": 0.05},
            "unroll": 4,
        },
        "decay": {
            "parameters": {"log": {"init": -3.0}},
            "loss": "program:judge",
            "data": "program:data",
            "optimizer": {"target": "torch.optim.SGD", "lr": 0.1},
        },
    },
    "edges": [{"upper": "decay", "lower": "net", "method": "unrolled"}],
    "engine": {"device": "cpu", "precision": "fp64", "iterations": 12},
}
METHODS: dict[str, Any] = {
    "remat": {"name": "unrolled", "remat": True},
    "forward_mode": "forward_mode",
    "evolution_strategies": {"name": "evolution_strategies", "samples": 2},
}
SAID = {
    "remat": "can make the last 4 updates again",
    "forward_mode": "carries derivatives for decay",
    "evolution_strategies": "can make the last 4 updates again",
}


@pytest.fixture(autouse=True)
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)


def spec(method: Any, optimizer: str = "torch.optim.Adam") -> dict[str, Any]:
    found = copy.deepcopy(SPEC)
    found["edges"][0]["method"] = method
    found["problems"]["net"]["optimizer"]["target"] = optimizer
    return found


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_plan_says_what_updates_keep(name: str) -> None:
    assert SAID[name] in Engine(spec(METHODS[name])).explain()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_run_lowers_the_loss_of_the_upper(name: str) -> None:
    engine = Engine(spec(METHODS[name]))
    engine.run()
    assert bool(torch.isfinite(engine.hypergradient("decay")["log"]))
    assert float(engine.modules["decay"].get_parameter("log").detach()) != -3.0


@pytest.mark.parametrize("name", ["remat", "forward_mode"])
def test_runs_agree_with_the_tape(name: str) -> None:
    found = []
    for method in ("unrolled", METHODS[name]):
        engine = Engine(spec(method))
        engine.run()
        found.append(engine.modules["decay"].get_parameter("log").detach())
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["unrolled", "forward_mode"])
@pytest.mark.parametrize("remat", [False, True])
def test_no_derivative_passes_through_rprop(name: str, remat: bool) -> None:
    method = {"name": name, "remat": True} if remat and name == "unrolled" else name
    with pytest.raises(SpecError, match=f"'{name}' differentiates the updates of 'net', whose optimizer is Rprop"):
        Engine(spec(method, "torch.optim.Rprop"))


def test_evolution_strategies_pass_through_rprop() -> None:
    engine = Engine(spec(METHODS["evolution_strategies"], "torch.optim.Rprop"))
    engine.run()
    assert bool(torch.isfinite(engine.hypergradient("decay")["log"]))


def test_an_episode_goes_on_after_a_checkpoint() -> None:
    """What a problem began at is part of the checkpoint: the restored episode does not begin again."""
    found = copy.deepcopy(SPEC)
    found["problems"]["net"]["loss"] = "program:judge"
    found["problems"]["net"]["initial"] = {"from": "meta"}
    found["problems"]["meta"] = {
        "module": NET,
        "loss": "program:judge",
        "data": "program:data",
        "optimizer": {"target": "torch.optim.SGD", "lr": 0.1},
    }
    del found["problems"]["decay"]
    found["edges"] = [{"upper": "meta", "lower": "net"}]
    engine = Engine(found)
    assert "the updates of net read meta" in engine.explain()
    engine.run(6)  # the second episode's second update
    checkpoint.write(checkpoint.state(engine._trainer), Path("six.pt"))
    again = Engine(found)
    again.restore("six.pt")
    live = again._program["net"]
    assert live.optimizer is not None
    assert (live.started_at, len(live.optimizer.state)) == (1, 2)
    again.run(1)
    assert [float(state["step"]) for state in live.optimizer.state.values()] == [3.0, 3.0]
    assert len(live.tape) == 1


KINKED = """

from torch.autograd.function import once_differentiable


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0].square())


class NoTangent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0].tanh().square())


def once(batch, net, decay):
    return fit((batch[0], batch[1] - Once.apply(net(batch[0]))), net, decay)


def no_tangent(batch, net, decay):
    return fit((batch[0], batch[1] - NoTangent.apply(net(batch[0]))), net, decay)
"""
REFUSED = {
    "once, by reverse": ("program:once", "cg", "differentiates the loss of 'net' twice"),
    "once, unrolled": ("program:once", "unrolled", "differentiates the loss of 'net' twice"),
    "no tangent, by forward": ("program:no_tangent", "identity", "has no derivative in forward mode"),
    "no tangent, in forward mode": ("program:no_tangent", "forward_mode", "has no derivative in forward mode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_losses_that_a_method_cannot_differentiate_are_refused(case: str) -> None:
    loss, method, message = REFUSED[case]
    Path("program.py").write_text(PROGRAM + KINKED, encoding="utf-8")
    wanted = spec(method)
    wanted["problems"]["net"]["loss"] = loss
    with pytest.raises(SpecError, match=message):
        Engine(wanted)
    wanted["edges"][0]["method"] = "auto"
    chosen = Engine(wanted).graph.edges[0].method
    assert chosen is not None
    assert not (chosen.forward or (loss == "program:once" and chosen.second_order))


def test_the_derivative_that_is_carried_along_is_there_until_the_next_update() -> None:
    found = {}
    for method in ("unrolled", "forward_mode"):
        engine = Engine(spec(method))
        engine.run()
        found[method] = engine.hypergradient("decay")["log"]
    torch.testing.assert_close(found["forward_mode"], found["unrolled"], rtol=1e-9, atol=1e-12)
