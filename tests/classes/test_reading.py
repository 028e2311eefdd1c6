"""Programs in which a problem would never move, and what is said of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from betty import Config, Engine, EngineConfig, GraphError, ImplicitProblem


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.ones(2))
        self.spare = nn.Parameter(torch.ones(2))

    def forward(self) -> Tensor:
        return self.at


class Given(ImplicitProblem):
    def training_step(self, batch: Any) -> Tensor:
        found: Tensor = self.loss()  # type: ignore[attr-defined]
        return found


def engine(
    below: Callable[[Any], Tensor], above: Callable[[Any], Tensor], *, down: bool = True, **configs: Any
) -> Engine:
    problems = []
    for name, loss in (("low", below), ("up", above)):
        module = Point()
        kind = type(name.title(), (Given,), {"loss": loss})
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        problems.append(kind(name, Config(**configs.get(name, {})), module, optimizer, train_data_loader=[None]))
    lower, upper = problems
    dependencies = {"u2l": {upper: [lower]} if down else {}, "l2u": {lower: [upper]}}
    return Engine(problems=problems, dependencies=dependencies, config=EngineConfig(strategy="cpu"))


def reads(self: Any) -> Tensor:
    return ((self() - self.up()) ** 2).sum()


def ignores(self: Any) -> Tensor:
    return (self() ** 2).sum()


def detaches(self: Any) -> Tensor:
    return ((self() - self.up().detach()) ** 2).sum()


def measures(self: Any) -> Tensor:
    return (self.low() ** 2).sum()


def steps(found: Engine) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found.run(2)
        found.run(1)
    return [str(one.message) for one in caught]


def test_a_right_program_is_not_warned_of() -> None:
    found = engine(reads, measures)
    assert steps(found) == []
    assert found.problems[1]()[0] != 1.0


@pytest.mark.parametrize("low", [ignores, detaches])
def test_a_lower_that_ignores_the_upper(low: Callable[[Any], Tensor]) -> None:
    found = engine(low, measures)
    (text,) = steps(found)
    assert "the loss of 'low' does not depend on 'up', so that 'up' would never move by what it does to it" in text
    assert torch.equal(found.problems[1]().detach(), torch.ones(2))


def test_a_missing_entry_of_u2l() -> None:
    texts = steps(engine(reads, measures, down=False))
    assert any("u2l has no entry {up: [low]}" in text for text in texts)
    assert any("'up' would never move" in text and 'dependencies["u2l"]: {up: [low]}' in text for text in texts)


def test_first_order_false_is_an_error() -> None:
    with pytest.raises(GraphError) as caught:
        engine(reads, measures, up={"first_order": False})
    assert "first_order=False computes no response of 'low': 'up' would never move by it" in str(caught.value)
    assert "Config(first_order=True) for up" in str(caught.value)


def test_unused_parameters_may_be_forbidden() -> None:
    found = engine(reads, measures, low={"allow_unused": False})
    with pytest.raises(GraphError, match="does not use spare, and allow_unused is False"):
        found.run(1)
    assert steps(engine(reads, measures, low={"allow_unused": True})) == []


def test_a_problem_that_the_dependencies_do_not_tell_of() -> None:
    def both(self: Any) -> Tensor:
        return (self.low() ** 2).sum() + (self() ** 2).sum()

    found = engine(ignores, both, down=False)
    found.set_dependency({"u2l": {}, "l2u": {}})
    (text,) = steps(found)
    assert "the loss of 'up' depends on 'low', which the dependencies do not tell" in text
