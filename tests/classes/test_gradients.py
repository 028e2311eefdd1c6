"""Gradients of class programs where the first Betty fails: aliases, views, frozen and unused parameters, batches."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from betty import Config, Engine, EngineConfig, ImplicitProblem

DOUBLE = torch.float64
Loss = Callable[[Any, Any], Any]


class Given(ImplicitProblem):
    """A problem whose loss is a function of itself and the batch."""

    def __init__(self, name: str, loss: Loss, **parts: Any) -> None:
        super().__init__(name, **parts)
        self.loss = loss

    def training_step(self, batch: Any) -> Any:
        return self.loss(self, batch)


class Point(nn.Module):
    def __init__(self, *values: Tensor) -> None:
        super().__init__()
        self.values = nn.ParameterList([nn.Parameter(value.clone()) for value in values])

    def forward(self) -> Tensor:
        found: Tensor = self.values[0]
        return found


def two(
    lower: Loss,
    upper: Loss,
    config: dict[str, Any] | None = None,
    upper_config: dict[str, Any] | None = None,
    data: tuple[Any, Any] = ([None], [None]),
    points: tuple[Point, Point] | None = None,
    optimizer: Callable[..., Any] = torch.optim.SGD,
) -> Engine:
    points = points or (Point(torch.tensor([1.0, 2.0], dtype=DOUBLE)), Point(torch.tensor([0.5, -0.5], dtype=DOUBLE)))
    low = Given(
        "low",
        lower,
        config=Config(precision="fp64", **(config or {})),
        module=points[0],
        optimizer=optimizer(points[0].parameters(), lr=0.1),
        train_data_loader=data[0],
    )
    up = Given(
        "up",
        upper,
        config=Config(precision="fp64", **(upper_config or {})),
        module=points[1],
        optimizer=torch.optim.SGD(points[1].parameters(), lr=0.1),
        train_data_loader=data[1],
    )
    return Engine(
        problems=[low, up],
        dependencies={"u2l": {up: [low]}, "l2u": {low: [up]}},
        config=EngineConfig(strategy="cpu"),
    )


def quadratic(problem: Any, batch: Any) -> Tensor:
    return ((problem() - problem.up().exp()) ** 2 * torch.tensor([1.0, 3.0], dtype=DOUBLE)).sum()


def squares(problem: Any, batch: Any) -> Tensor:
    return (problem.low() ** 3).sum()


class Tied(nn.Module):
    """Parameters that autograd gives one tensor, or views of one, as their gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(3, 3))
        self.b = nn.Parameter(torch.full((3, 3), 2.0))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        # a + b gets one gradient for both; the sum gives an expanded view; the product uses a a second time.
        return (self.a + self.b).sum() + (inputs @ self.a).sum() + self.frozen.sum()


@pytest.mark.parametrize("clipping", [0.0, 0.5])
@pytest.mark.parametrize(
    "make",
    [
        lambda one: torch.optim.SGD(one, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda one: torch.optim.SGD(one, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=True),
        lambda one: torch.optim.Adam(one, lr=0.1, weight_decay=0.1, foreach=True),
        lambda one: torch.optim.AdamW(one, lr=0.1, weight_decay=0.1, foreach=False),
        lambda one: torch.optim.RMSprop(one, lr=0.1, weight_decay=0.1, foreach=True),
    ],
)
def test_steps_are_those_of_backward(make: Any, clipping: float) -> None:
    torch.manual_seed(0)
    batches = [torch.randn(4, 3) for _ in range(3)]
    module = Tied()
    plain = copy.deepcopy(module)
    problem = Given(
        "low",
        lambda own, batch: {"loss": own(batch), "note": 1.0},
        config=Config(gradient_clipping=clipping),
        module=module,
        optimizer=make(module.parameters()),
        train_data_loader=batches,
    )
    engine = Engine(problems=[problem], config=EngineConfig(strategy="cpu"))
    optimizer = make(plain.parameters())
    for step in range(6):
        engine.train_step()
        optimizer.zero_grad()
        plain(batches[step % 3]).backward()
        if clipping:
            nn.utils.clip_grad_norm_(plain.parameters(), clipping)
        optimizer.step()
    for (name, mine), theirs in zip(module.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)
    assert torch.equal(module.unused, torch.ones(2)), "weight decay does not move what has no gradient"


def test_a_parameter_that_is_frozen_in_the_middle_of_a_run() -> None:
    module = Point(torch.ones(2), torch.ones(2))
    problem = Given(
        "low",
        lambda own, batch: sum((value**2).sum() for value in own.module.values),
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
        train_data_loader=[None],
    )
    engine = Engine(problems=[problem], config=EngineConfig(strategy="cpu"))
    engine.train_step()
    module.values[0].requires_grad_(False)
    problem.set_module(module)
    held = module.values[0].clone()
    engine.train_step()
    assert torch.equal(module.values[0], held) and module.values[1].max() < 0.7


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("method", ["cg", "neumann", {"name": "cg", "iterations": 2}, "unrolled"])
def test_an_upper_loss_may_use_the_upper_itself(method: Any, retain: bool) -> None:
    def upper(problem: Any, batch: Any) -> dict[str, Tensor]:
        return {"loss": (problem() ** 4).sum() + (problem.low() * problem()).sum()}

    config = {"type": method, "cg_iterations": 2, "neumann_iterations": 400, "neumann_alpha": 0.1, "unroll_steps": 200}
    engine = two(quadratic, upper, config, {"retain_graph": retain})
    for _ in range(199):
        engine.train_step()
    if method == "unrolled":  # differentiates the 200 updates that lead up to the upper's step
        up = engine.problems[1]
        start = up().detach().clone()
        engine.train_step()
        moved = (start - up().detach()) / 0.1
        found, at = moved, start
    else:
        engine.train_step()
        at = engine.problems[1]().detach()
        found = engine.hypergradient("up")["values.0"]
        engine.problems[0].module.values[0].data.copy_(at.exp())
        found = engine.hypergradient("up")["values.0"]
    # The solution of the lower is exp(up): d/du [u^4 + u exp(u)].
    expected = 4 * at**3 + at.exp() + at * at.exp()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


class Encoding(dict[str, Any]):
    """Moves itself, as the encodings of Hugging Face do, and gives its items as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any) -> Encoding:
        return Encoding({key: value.to(device) for key, value in self.items()})


Pair = namedtuple("Pair", ["x", "more"])

BATCHES: dict[str, tuple[Any, Callable[[Any], Tensor]]] = {
    "tensor": (torch.tensor([2.0, 3.0], dtype=DOUBLE), lambda batch: batch),
    "single precision": (torch.tensor([2.0, 3.0]), lambda batch: batch),
    "nested": ({"a": [(torch.tensor([2.0, 3.0]), "text")], "b": None}, lambda batch: batch["a"][0][0]),
    "named tuple": (Pair(torch.tensor([2.0, 3.0], dtype=DOUBLE), {"k": 1}), lambda batch: batch.x),
    "encoding": (Encoding(ids=torch.tensor([2, 3])), lambda batch: batch.ids.double()),
    "numbers": ((2.0, 3.0), lambda batch: torch.tensor(batch, dtype=DOUBLE)),
}


@pytest.mark.parametrize("form", BATCHES)
@pytest.mark.parametrize("method", ["darts", "sama", "cg", "neumann", "unrolled", "penalty", "forward_mode"])
def test_every_form_of_a_batch(form: str, method: str) -> None:
    batch, read = BATCHES[form]

    def lower(problem: Any, batch: Any) -> Tensor:
        return quadratic(problem, batch) + 0.1 * (problem() * read(batch)).sum()

    def told(problem: Any, batch: Any) -> Tensor:
        return squares(problem, batch) * read(batch).sum()

    config = {"type": method, "neumann_alpha": 0.1, "sama_adam_alpha": 0.01}
    engine = two(lower, told, config, data=([batch], [batch]))
    plain = two(
        lambda problem, _: quadratic(problem, None) + 0.1 * (problem() * read(batch)).sum(),
        lambda problem, _: squares(problem, None) * read(batch).sum(),
        config,
    )
    for one in (engine, plain):
        one.run(3)
    for mine, theirs in zip(engine.problems, plain.problems, strict=True):
        torch.testing.assert_close(mine().detach(), theirs().detach(), rtol=1e-9, atol=1e-9)
    assert (engine.problems[1]().detach() - torch.tensor([0.5, -0.5], dtype=DOUBLE)).abs().min() > 1e-6


def test_loaders_of_unequal_lengths_give_tuples() -> None:
    seen: list[tuple[int, str]] = []
    problem = Given("low", lambda own, batch: own.got(batch) + (own() ** 2).sum(), module=Point(torch.ones(1)))
    problem.got = lambda batch: 0.0  # type: ignore[attr-defined]
    problem.set_train_data_loader(([1, 2, 3], ["a", "b"]))
    problem.optimizer = torch.optim.SGD(problem.module.parameters(), lr=0.1)
    engine = Engine(problems=[problem], config=EngineConfig(strategy="cpu"))
    for _ in range(5):
        engine.train_step()
        seen.append(problem.cur_batch)
    assert seen == [(1, "a"), (2, "b"), (3, "a"), (1, "b"), (2, "a")]
    assert problem.epoch_counter == [1, 2]


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1000),
    parts=st.integers(2, 4),
    method=st.sampled_from(["darts", "cg", "neumann", "sama", "unrolled"]),
)
def test_accumulation_uses_all_micro_batches(seed: int, parts: int, method: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(4 * parts, 2, generator=generator, dtype=DOUBLE)

    def lower(problem: Any, batch: Tensor) -> Tensor:
        return ((problem() * batch - problem.up()) ** 2).sum(dim=1).mean()

    config = {"type": method, "cg_iterations": 2, "neumann_alpha": 0.1, "sama_adam_alpha": 0.01}
    split = two(lower, squares, {**config, "gradient_accumulation": parts}, data=(list(whole.split(4)), [None]))
    joined = two(lower, squares, config, data=([whole], [None]))
    split.run(2 * parts)
    joined.run(2)
    for mine, theirs in zip(split.problems, joined.problems, strict=True):
        assert mine.count == (theirs.count * parts if mine.name == "low" else theirs.count)
        torch.testing.assert_close(mine().detach(), theirs().detach(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.1, 3.0])
def test_cg_alpha_scales_nothing(alpha: float) -> None:
    found = []
    for value in (1.0, alpha):
        engine = two(quadratic, squares, {"type": "cg", "cg_iterations": 2, "cg_alpha": value})
        engine.run(2)
        found.append(engine.hypergradient("up")["values.0"])
    assert torch.equal(*found)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_sama_adapts_as_adam_does_bias_correction_included(steps: int) -> None:
    """The response of one Adam step to a change of its gradient, by automatic differentiation through that step."""
    engine = two(
        quadratic,
        squares,
        {"type": {"inverse": "sama", "product": "reverse"}, "unroll_steps": steps},
        optimizer=lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.99), eps=1e-3),
    )
    low, up = engine.problems
    u = up().detach().clone().requires_grad_()
    theta, first, second = low().detach().clone(), torch.zeros(2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    scale = torch.tensor([1.0, 3.0], dtype=DOUBLE)
    for step in range(1, steps + 1):
        before = theta
        gradient = 2 * scale * (theta - u.exp())
        gradient = gradient if step == steps else gradient.detach()
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        theta = before - 0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt() + 1e-3)
        if step < steps:
            theta, first, second = theta.detach(), first.detach(), second.detach()
    engine.run(steps - 1)
    start = up().detach().clone()
    engine.run(1)
    torch.testing.assert_close(low().detach(), theta.detach(), rtol=1e-9, atol=1e-9)
    # sama evaluates the mixed product where the lower stands after the step; this one is linear in it.
    adjoint = 3 * theta.detach() ** 2
    (response,) = torch.autograd.grad((theta * adjoint).sum(), [u])
    moved = (start - up().detach()) / 0.1
    torch.testing.assert_close(moved / moved.norm(), response / response.norm(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["cg", "neumann", "minres"])
def test_exact_methods_in_a_middle_level(method: str) -> None:
    """A chain: low solves to exp(top), mid to a part of low, and top measures mid."""
    one, stiff = torch.tensor([0.3, -0.2], dtype=DOUBLE), torch.tensor([1.0, 3.0], dtype=DOUBLE)
    modules = {name: Point(one) for name in ("low", "mid", "top")}
    losses: dict[str, Loss] = {
        "low": lambda own, _: ((own() - own.top().exp()) ** 2).sum(),
        "mid": lambda own, _: (stiff * (own() - own.low()) ** 2 + own() ** 2).sum(),
        "top": lambda own, _: (own.mid() ** 3).sum(),
    }
    config: dict[str, Any] = {"cg_iterations": 4, "neumann_iterations": 300, "neumann_alpha": 0.1}
    problems = {
        name: Given(
            name,
            losses[name],
            config=Config(
                type={"name": "minres", "iterations": 8} if method == "minres" else method, precision="fp64", **config
            ),
            module=modules[name],
            optimizer=torch.optim.SGD(modules[name].parameters(), lr=0.1),
            train_data_loader=[None],
        )
        for name in modules
    }
    low, mid, top = problems.values()
    engine = Engine(
        problems=list(problems.values()),
        dependencies={"u2l": {top: [low]}, "l2u": {low: [mid], mid: [top]}},
        config=EngineConfig(strategy="cpu"),
    )
    engine.run(1)
    part = stiff / (1 + stiff)
    for module, value in ((modules["low"], one.exp()), (modules["mid"], part * one.exp()), (modules["top"], one)):
        module.values[0].data.copy_(value)
    found = engine.hypergradient("top")["values.0"]
    torch.testing.assert_close(found, 3 * (part * one.exp()) ** 2 * part * one.exp(), rtol=1e-6, atol=1e-9)
