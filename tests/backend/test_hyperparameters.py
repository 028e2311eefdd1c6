"""Hyperparameters that are parameters of an upper: the hypergradient against central differences of plain training."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, optim

from betty.backends.torch.objective import ParameterModule, View
from betty.backends.torch.trajectory.tuning import TRANSFORMS, Tuned
from betty.ir.diagnostics import GraphError
from betty.ir.methods import Method, preset
from betty.ir.records import Flow
from tests.support.compare import assert_close, assert_same
from tests.support.programs import Built, Part, assemble, edge
from tests.support.unrolling import D, central_difference, examples, hypergradient, logistic, network

MAKERS: dict[str, type[optim.Optimizer]] = {"SGD": optim.SGD, "AdamW": optim.AdamW, "RMSprop": optim.RMSprop}


@dataclass(frozen=True)
class Rates:
    """An optimiser with tuned options: (option, transform, raw value); others as they are."""

    kind: str
    tuned: tuple[tuple[str, str, float], ...]
    others: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{option}={transform}' for option, transform, _ in self.tuned)})"

    def make(self, raw: list[float], parameters: Any) -> optim.Optimizer:
        values: dict[str, Any] = {
            option: float(TRANSFORMS[transform](torch.tensor(value, dtype=D)))
            for (option, transform, _), value in zip(self.tuned, raw, strict=True)
        }
        make: Any = MAKERS[self.kind]
        found: optim.Optimizer = make(parameters, **values, **dict(self.others))
        return found

    @property
    def raw(self) -> list[float]:
        return [value for _, _, value in self.tuned]


CASES = (
    Rates("SGD", (("lr", "exp", -1.5),)),
    Rates("SGD", (("lr", "softplus", -1.0), ("momentum", "sigmoid", 0.3), ("weight_decay", "identity", 0.05))),
    Rates("SGD", (("momentum", "sigmoid", -0.5), ("dampening", "identity", 0.2)), (("lr", 0.2),)),
    Rates("AdamW", (("lr", "exp", -3.0), ("weight_decay", "softplus", -2.0), ("eps", "exp", -5.0))),
    Rates("RMSprop", (("lr", "exp", -4.0), ("alpha", "sigmoid", 1.0), ("momentum", "identity", 0.4)), (("eps", 1e-2),)),
)
METHODS = {
    "unrolled": preset("unrolled", {"steps": 4}),
    "remat": preset("unrolled", {"steps": 4, "remat": True}),
    "forward_mode": preset("forward_mode"),
}


def low_loss(batch: tuple[Tensor, Tensor, Tensor], low: View) -> Tensor:
    """Does not read the tuner at all."""
    return logistic(low, *batch[1:]).mean()


def goal(low: View) -> Tensor:
    return logistic(low, *examples(seed=99, count=6)[1:]).mean()


def built(case: Rates, method: Method, accumulation: int = 1, clipping: float | None = None) -> Built:
    names = [f"raw_{option}" for option, _, _ in case.tuned]
    tuner = ParameterModule({name: torch.tensor(raw, dtype=D) for name, raw in zip(names, case.raw, strict=True)})
    low = Part(
        name="low",
        module=network(seed=3),
        loss=low_loss,
        optimizer=lambda parameters: case.make(case.raw, parameters),
        batches=[examples(seed=index, count=8) for index in range(30)],
        accumulation=accumulation,
        clipping=clipping,
        tuned=tuple(Tuned(o, "tuner", index, transform) for index, (o, transform, _) in enumerate(case.tuned)),
    )
    return assemble([low, Part(name="tuner", module=tuner, loss=goal)], [edge("tuner", "low", method)])


def trained(case: Rates, change: Tensor, before: int, count: int, accumulation: int, clipping: float | None) -> float:
    """The goal after plain training in which the raw values were moved from update ``before`` on."""
    low = network(seed=3)
    optimizer = case.make(case.raw, low.parameters())
    for update in range(before + count):
        if update == before:
            moved = case.make([a + float(b) for a, b in zip(case.raw, change, strict=True)], low.parameters())
            moved.state = copy.copy(optimizer.state)
            optimizer = moved
        optimizer.zero_grad()
        for micro in range(accumulation):
            batch = examples(seed=update * accumulation + micro, count=8)
            (logistic(low, *batch[1:]).mean() / accumulation).backward()
        if clipping is not None:
            nn.utils.clip_grad_norm_(low.parameters(), clipping)
        optimizer.step()
    with torch.no_grad():
        return float(logistic(low, *examples(seed=99, count=6)[1:]).mean())


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_central_differences(case: Rates, method: str) -> None:
    program = built(case, METHODS[method], accumulation=2, clipping=0.4)
    program.follow(["low"] * 8)
    exact = central_difference(lambda change: trained(case, change, 0, 4, 2, 0.4), len(case.tuned), step=1e-4)
    assert_close(hypergradient(program, "tuner"), exact, 1e-5)


@settings(max_examples=8)
@given(
    case=st.sampled_from(CASES),
    before=st.integers(0, 3),
    count=st.integers(1, 4),
    remat=st.booleans(),
)
def test_a_window_in_the_middle(case: Rates, before: int, count: int, remat: bool) -> None:
    program = built(case, preset("unrolled", {"steps": count, "remat": remat}))
    program.follow(["low"] * (before + count))
    names = [option for option, _, _ in case.tuned]
    if count == 1 and names[0] == "momentum" and before == 0:
        return  # the first update does not depend on the momentum
    exact = central_difference(lambda change: trained(case, change, before, count, 1, None), len(names), step=1e-4)
    if exact.norm() > 1e-9:
        assert_close(hypergradient(program, "tuner"), exact, 1e-4)


def test_plain_gradient_descent_in_closed_form() -> None:
    """One update of gradient descent: d L_up / d log rate = -rate * <gradient of up, gradient of low>."""

    def loss(batch: Tensor, low: View) -> Tensor:
        return 0.5 * (low.parameters["w"] - batch).square().sum()

    def up(low: View) -> Tensor:
        return low.parameters["w"].sum()

    for value in (-2.0, -0.3):
        parts = [
            Part(
                name="low",
                module=ParameterModule({"w": torch.tensor([1.0, 2.0], dtype=D)}),
                loss=loss,
                batches=[torch.tensor([0.5, -1.0], dtype=D)],
                optimizer=partial(optim.SGD, lr=math.exp(value)),
                tuned=(Tuned("lr", "tuner", 0, "exp"),),
            ),
            Part(name="tuner", module=ParameterModule({"raw": torch.tensor([value], dtype=D)}), loss=up),
        ]
        program = assemble(parts, [edge("tuner", "low", preset("unrolled", {"steps": 1}))])
        program.follow(["low"])
        assert_close(hypergradient(program, "tuner"), torch.tensor([-math.exp(value) * (0.5 + 3.0)], dtype=D), 1e-12)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_optimiser_shows_the_present_number_and_uses_it(method: str) -> None:
    case = CASES[1]
    program = built(case, METHODS[method])
    program.follow(["low", "tuner", "low"])
    raw = program.program.parameters("tuner")
    for (option, transform, _), leaf in zip(case.tuned, raw, strict=True):
        shown = program.optimizer("low").param_groups[0][option]
        assert type(shown) is float
        assert shown == pytest.approx(float(TRANSFORMS[transform](leaf.detach())), abs=1e-15)
    assert float(raw[0].detach()) != case.raw[0]


def test_live_values_are_those_of_plain_training() -> None:
    found = []
    for method in METHODS.values():
        program = built(CASES[3], method)
        program.follow(["low"] * 5)
        found.append([leaf.detach().clone() for leaf in program.program.parameters("low")])
    assert_same(found[1], found[0])
    torch.testing.assert_close(found[2], found[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["cg", "finite_difference", "sama", "neumann", "penalty", "reinforce"])
def test_a_method_that_looks_at_the_loss_alone_is_refused(name: str) -> None:
    with pytest.raises(GraphError, match="looks at the loss of 'low', which does not read 'tuner'") as caught:
        built(CASES[0], preset(name))
    assert "method: unrolled" in str(caught.value)


def test_without_a_method_updates_are_differentiated() -> None:
    program = built(CASES[0], None)  # type: ignore[arg-type]
    chosen = program.graph.edges[0]
    assert chosen.method == preset("unrolled")
    assert "the updates of low read tuner" in chosen.reason


def test_a_tuner_needs_an_edge() -> None:
    parts = [
        Part(name="low", module=network(0), loss=low_loss, tuned=(Tuned("lr", "tuner", 0),), batches=[examples(0, 4)]),
        Part(name="tuner", module=ParameterModule({"raw": torch.zeros((), dtype=D)}), loss=goal),
    ]
    with pytest.raises(GraphError, match="the updates of 'low' read 'tuner', but no flow brings it"):
        assemble(parts, [edge("tuner", "low", None, Flow.UP)])


def test_a_lower_may_be_tuned_and_read_its_upper() -> None:
    """The loss reads weights, the optimiser a rate, of the same upper: both parts add up."""

    def loss(batch: tuple[Tensor, Tensor, Tensor], low: View, up: View) -> Tensor:
        group, x, y = batch
        return (torch.sigmoid(up.parameters["weights"][group]) * logistic(low, x, y)).mean()

    def run(change: Tensor) -> Built:
        module = ParameterModule(
            {"weights": torch.zeros(4, dtype=D) + change[:4], "rate": torch.tensor(-1.0, dtype=D) + change[4]}
        )
        low = Part(
            name="low",
            module=network(3),
            loss=loss,
            batches=[examples(seed=index, count=8) for index in range(9)],
            tuned=(Tuned("lr", "up", 1, "exp"),),
        )
        up = Part(name="up", module=module, loss=goal)
        program = assemble([low, up], [edge("up", "low", preset("unrolled", {"steps": 3}))])
        program.follow(["low"] * 3)
        return program

    def value(change: Tensor) -> float:
        return float(run(change).executor.hypergradient("up").loss)

    assert_close(hypergradient(run(torch.zeros(5, dtype=D))), central_difference(value, 5), 1e-6)
