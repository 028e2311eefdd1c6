"""Roll-back: look-ahead updates, an answer from above, then back to the start and one real update."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from betty import Engine, Spec
from betty.backends.torch.frame import Frame
from betty.backends.torch.program import LiveProblem
from betty.ir.plan import Plan
from betty.ir.text import graph_to_text, parse_graph, parse_plan, plan_to_text

SIZE, COUNT = 3, 5


class Net(nn.Module):
    """A vector behind a batch norm, so that there are buffers to put back."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(SIZE, generator=generator, dtype=torch.float64))
        self.norm = nn.BatchNorm1d(SIZE, affine=False, dtype=torch.float64)

    def forward(self, batch: Tensor) -> Tensor:
        return self.norm(batch) * self.weight


def bottom_loss(batch: Any, bottom: Any, middle: Any) -> Tensor:
    return ((bottom(batch) - batch) ** 2).mean() + (middle.weight.exp() * bottom.weight**2).mean()


def middle_loss(batch: Any, middle: Any, bottom: Any, top: Any) -> Tensor:
    return ((bottom(batch) - batch.roll(1, 1)) ** 2).mean() + ((middle.weight - top.weight) ** 2).sum()


def middle_loss_alone(batch: Any, middle: Any, bottom: Any) -> Tensor:
    return ((bottom(batch) - batch.roll(1, 1)) ** 2).mean() + 0.1 * (middle.weight**2).sum()


def top_loss(batch: Any, middle: Any) -> Tensor:
    return ((middle(batch) + 1.0) ** 2).mean()


def batches(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(COUNT, 4, SIZE, generator=generator, dtype=torch.float64))


def problem(loss: Any, seed: int, optimizer: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "module": {"target": Net(seed)},
        "loss": {"target": loss},
        "data": {"target": batches(seed)},
        "optimizer": dict(optimizer),
        "scheduler": {"target": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.9},
        "precision": "fp64",
        **fields,
    }


def engine(
    levels: int,
    *,
    roll_back: bool,
    method: Any = "cg",
    optimizer: Mapping[str, Any],
    unroll: int = 2,
    accumulation: int = 1,
    warm_up: int = 0,
) -> Engine:
    lower = {"unroll": unroll, "gradient_accumulation": accumulation, "warm_up": warm_up}
    problems = {"bottom": problem(bottom_loss, 1, optimizer, **lower)}
    edges = [{"upper": "middle", "lower": "bottom", "method": method}]
    if levels == 2:
        problems["middle"] = problem(middle_loss_alone, 2, optimizer)
    else:
        problems["middle"] = problem(middle_loss, 2, optimizer, unroll=2)
        problems["top"] = problem(top_loss, 3, optimizer)
        edges.append({"upper": "top", "lower": "middle", "method": "finite_difference"})
    runs = {"iterations": 12, "device": "cpu", "roll_back": roll_back, "log": {"every": 1}}
    spec = {"name": "back", "problems": problems, "edges": edges, "engine": runs}
    return Engine(Spec.model_validate(spec))


def parts(problem: LiveProblem) -> list[Any]:
    return [problem.module, problem.optimizer]


def by_hand(found: Engine, iterations: int) -> None:
    """The same on an engine without roll-back, with nothing but its single steps and state dicts."""
    executor, program = found._trainer.executor, found._program
    steps = {step.problem: step for step in found.plan}
    uppers = {"bottom": "middle", "middle": "top"} if "top" in steps else {"bottom": "middle"}
    loops = {name: found.graph.problem(name).unroll * found.graph.problem(name).accumulation for name in uppers}
    saved: dict[str, list[Any]] = {}
    drawn: dict[str, list[Any]] = {name: [] for name in steps}
    for iteration in range(1, iterations + 1):
        stepped = []
        for name, step in steps.items():
            live = program[name]
            warm = all(program[low].count > least for low, least in step.after)
            if iteration % step.period or not warm:
                continue
            counts = live.count + loops.get(name, 0) > found.graph.problem(name).warm_up
            first = name in loops and (iteration - step.period) % steps[uppers[name]].period == 0
            if first and name not in saved and counts:
                saved[name] = [copy.deepcopy(part.state_dict()) for part in parts(live)]
            drawn[name].append(live.stream.peek())  # type: ignore[union-attr]
            _step(live, executor, real=name not in saved)
            stepped.append(name)
        for name in ("middle", "bottom"):
            if name in saved and uppers[name] in stepped:
                batches = drawn[name][-found.graph.problem(name).accumulation :]
                _back(program[name], saved.pop(name), executor, batches)


def _step(live: LiveProblem, executor: Any, *, real: bool) -> None:
    scheduler = live.scheduler
    live.scheduler = scheduler if real else None
    executor.step(live.name)
    live.scheduler = scheduler


def _back(live: LiveProblem, states: list[Any], executor: Any, batches: list[Any]) -> None:
    rates = [group["lr"] for group in live.optimizer.param_groups]  # type: ignore[union-attr]
    for part, state in zip(parts(live), states, strict=True):
        part.load_state_dict(state)
    for group, rate in zip(live.optimizer.param_groups, rates, strict=True):  # type: ignore[union-attr]
        group["lr"] = rate
    live.forget()
    stream, live.stream = live.stream, _Again(batches)  # type: ignore[assignment]
    live.count -= len(batches)
    for _ in batches:
        executor.step(live.name)
    live.stream = stream
    live.forget()


class _Again:
    def __init__(self, batches: list[Any]) -> None:
        self._batches = iter(batches)

    def next(self) -> Any:
        return next(self._batches)


def weights(found: Engine) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in found.modules.items()
        for key, value in module.state_dict().items()
    }


def assert_same(one: Engine, other: Engine) -> None:
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=1e-12, atol=1e-14, msg=name)


SGD = {"target": "torch.optim.SGD", "lr": 0.05, "momentum": 0.8}
OPTIMIZERS = [SGD, {"target": "torch.optim.Adam", "lr": 0.05}, {"target": "torch.optim.AdamW", "lr": 0.02}]


@settings(max_examples=12, deadline=None)
@given(
    levels=st.sampled_from([2, 3]),
    method=st.sampled_from(["cg", "finite_difference", "unrolled", "neumann"]),
    optimizer=st.sampled_from(OPTIMIZERS),
    unroll=st.integers(1, 3),
    accumulation=st.integers(1, 2),
    warm_up=st.sampled_from([0, 5]),
)
def test_roll_back_is_what_single_steps_and_saved_states_give(levels: int, **options: Any) -> None:
    rolled, plain = engine(levels, roll_back=True, **options), engine(levels, roll_back=False, **options)
    if levels == 3:  # the plan without roll-back keeps no micro-batch that nothing answers with
        assert plain.plan.step("middle").instructions[0] == rolled.plan.step("middle").instructions[0]
    rolled.run(14)
    by_hand(plain, 14)
    assert_same(rolled, plain)


@pytest.mark.parametrize("unroll", [1, 3])
def test_roll_back_against_a_loop_in_plain_torch(unroll: int) -> None:
    """Two levels, SGD with momentum, identity: every line written out."""
    found = engine(2, roll_back=True, method="finite_difference", optimizer=SGD, unroll=unroll)
    exact = engine(
        2, roll_back=True, method={"inverse": "identity", "product": "reverse"}, optimizer=SGD, unroll=unroll
    )
    low, up = Net(1), Net(2)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.8) for net in (low, up)]
    schedules = [torch.optim.lr_scheduler.ExponentialLR(one, 0.9) for one in optimizers]
    lows, ups = batches(1), batches(2)
    for loop in range(4):
        state = copy.deepcopy((low.state_dict(), optimizers[0].state_dict()["state"]))
        for index in range(unroll):
            batch = lows[(loop * unroll + index) % COUNT]
            _descend(optimizers[0], bottom_loss(batch, low, up))
        saved = copy.deepcopy(low.norm.state_dict())
        inner = bottom_loss(batch, low, up)
        low.norm.load_state_dict(saved)
        (slope,) = torch.autograd.grad(inner, [low.weight], create_graph=True)
        outer = middle_loss_alone(ups[loop % COUNT], up, low)
        adjoint, direct = torch.autograd.grad(outer, [low.weight, up.weight])
        (response,) = torch.autograd.grad(slope, [up.weight], adjoint)
        up.weight.grad = direct - response
        optimizers[1].step()
        schedules[1].step()
        low.load_state_dict(state[0])
        optimizers[0].load_state_dict({**optimizers[0].state_dict(), "state": state[1]})
        _descend(optimizers[0], bottom_loss(batch, low, up))
        schedules[0].step()
    exact.run(4 * unroll)
    found.run(4 * unroll)
    for name, net in (("bottom", low), ("middle", up)):
        for key, value in net.state_dict().items():
            torch.testing.assert_close(exact.modules[name].state_dict()[key], value, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(found.modules[name].state_dict()[key], value, rtol=1e-4, atol=1e-5)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_a_run_goes_on_from_the_middle_of_a_look_ahead(tmp_path: Path) -> None:
    from betty.backends.torch import checkpoint

    whole, cut = (engine(2, roll_back=True, optimizer=SGD, unroll=COUNT) for _ in range(2))
    whole.run(COUNT + 2)
    checkpoint.write(checkpoint.state(whole._trainer), tmp_path / "seven.pt")
    cut.restore(tmp_path / "seven.pt")
    whole.run(COUNT)
    cut.run(COUNT)
    assert_same(whole, cut)


def test_an_interrupted_real_update_leaves_a_usable_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = engine(2, roll_back=True, optimizer=SGD)
    plain, calls = found._trainer.executor._apply, iter(range(1000))

    def interrupted(frame: Frame, item: Any) -> bool:
        if frame.problem.name == "bottom" and next(calls) == 2:  # two look-ahead updates, then the real one
            raise KeyboardInterrupt
        return plain(frame, item)

    monkeypatch.setattr(found._trainer.executor, "_apply", interrupted)
    assert found.run(4).reason == "interrupted"
    assert found._program["bottom"].count == 2
    assert found.run(6).reason == "finished"
    assert all(value.isfinite().all() for value in weights(found).values())


def test_the_plan_says_it() -> None:
    found = engine(3, roll_back=True, optimizer=SGD, unroll=2, accumulation=2)
    lines = [" ".join(line.split()) for line in found.explain().splitlines()]
    assert "then back to before, once middle has stepped, and one real update" in lines
    assert "then back to before, once top has stepped, and one real update" in lines
    step = found.plan.step("bottom")
    assert (step.ahead, step.answered_by) == (4, ("middle",)) and found.plan.step("top").ahead == 0
    assert parse_plan(plan_to_text(found.plan)) == found.plan
    assert parse_graph(graph_to_text(found.graph)) == found.graph and "roll_back=true" in graph_to_text(found.graph)
    plain: Plan = engine(3, roll_back=False, optimizer=SGD).plan
    assert all(step.ahead == 0 for step in plain) and "ahead" not in plan_to_text(plain)


def test_check_replays_look_aheads() -> None:
    from betty.ir.methods import preset

    found = engine(2, roll_back=True, optimizer=SGD, unroll=2)
    before = weights(found)
    report = found.check(iterations=8, points=2, methods=[preset("dense"), preset("finite_difference")])
    (edge,) = report.check.edges
    rows = {row.name: row for row in edge.rows}
    assert rows["dense + reverse"].error < 1e-6 and rows["identity + finite_difference"].error > 1e-3
    for name, value in weights(found).items():
        assert torch.equal(value, before[name])
