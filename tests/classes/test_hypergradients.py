"""Hypergradients of two-level class programs are those of the first Betty's definitions, to rounding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from betty import Config, Engine, EngineConfig, ImplicitProblem, IterativeProblem
from tests.classes.first_betty import hypergradient


class Net(nn.Module):
    """Convex enough for every series: a hidden layer, and decay that the upper learns."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, 1)

    def forward(self, batch: Tensor) -> Tensor:
        found: Tensor = self.second(torch.tanh(self.first(batch)))
        return found


class Decay(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.zeros(count))
        self.shift = nn.Parameter(torch.ones(1))

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.log.exp(), self.shift


class Lower(ImplicitProblem):
    def training_step(self, batch: Any) -> Tensor:
        return lower_loss(self, self.module, self.upper(), batch)  # type: ignore[attr-defined]


class Upper(ImplicitProblem):
    def training_step(self, batch: Any) -> dict[str, Tensor]:
        return {"loss": upper_loss(self.lower, self(), batch)}  # type: ignore[attr-defined]


def lower_loss(net: Any, module: nn.Module, decay: tuple[Tensor, Tensor], batch: Any) -> Tensor:
    inputs, targets = batch
    norms = torch.stack([(one**2).sum() for one in module.parameters()])
    return ((net(inputs) - decay[1] * targets) ** 2).mean() + (decay[0] * norms).sum()


def upper_loss(net: Any, decay: tuple[Tensor, Tensor], batch: Any) -> Tensor:
    inputs, targets = batch
    return ((net(inputs) - targets) ** 2).mean() + 0.1 * (decay[1] ** 2).sum()


def engine(seed: int, sizes: tuple[int, int], precision: str, config: dict[str, Any]) -> Engine:
    torch.manual_seed(seed)
    inputs, hidden = sizes
    net, decay = Net(inputs, hidden), Decay(4)
    data = [[(torch.randn(8, inputs), torch.randn(8, 1))] for _ in range(2)]
    lower = Lower(
        "lower", Config(precision=precision, **config), net, torch.optim.SGD(net.parameters(), 0.05), None, data[0]
    )
    upper = Upper(
        "upper", Config(precision=precision), decay, torch.optim.Adam(decay.parameters(), 0.01), None, data[1]
    )
    return Engine(
        problems=[lower, upper],
        dependencies={"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
        config=EngineConfig(strategy="cpu"),
    )


def reference(found: Engine, method: str, **options: float) -> dict[str, Tensor]:
    lower, upper = found.problems
    theta = dict(lower.module.named_parameters())
    phi = dict(upper.module.named_parameters())
    batches = {one.name: one.cur_batch for one in (lower, upper)}

    def called(module: nn.Module, values: Sequence[Tensor], *inputs: Any) -> Any:
        return functional_call(module, dict(zip(dict(module.named_parameters()), values, strict=True)), inputs)

    class Held(nn.Module):
        """Parameters as values, for the penalty."""

        def __init__(self, values: Sequence[Tensor]) -> None:
            super().__init__()
            self.values = values

        def parameters(self, recurse: bool = True) -> Any:
            return iter(self.values)

    def below(own: Sequence[Tensor], above: Sequence[Tensor]) -> Tensor:
        net = lambda batch: called(lower.module, own, batch)  # noqa: E731
        return lower_loss(net, Held(own), called(upper.module, above), batches["lower"])

    def up(own: Sequence[Tensor], above: Sequence[Tensor]) -> Tensor:
        net = lambda batch: called(lower.module, own, batch)  # noqa: E731
        return upper_loss(net, called(upper.module, above), batches["upper"])

    values = hypergradient(method, below, up, tuple(theta.values()), tuple(phi.values()), **options)
    return dict(zip(phi, values, strict=True))


CASES = st.one_of(
    st.tuples(st.just("darts"), st.fixed_dictionaries({"alpha": st.sampled_from([0.01, 0.1])})),
    st.tuples(
        st.just("neumann"),
        st.fixed_dictionaries({"iterations": st.integers(0, 4), "alpha": st.sampled_from([0.05, 0.2])}),
    ),
    st.tuples(st.just("cg"), st.fixed_dictionaries({"iterations": st.integers(1, 4)})),
)


@settings(max_examples=30, deadline=None)
@given(
    case=CASES,
    seed=st.integers(0, 10_000),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    precision=st.sampled_from(["fp32", "fp64"]),
    steps=st.integers(1, 4),
)
def test_hypergradient_is_the_first_bettys(
    case: tuple[str, dict[str, Any]], seed: int, sizes: tuple[int, int], precision: str, steps: int
) -> None:
    method, options = case
    found = engine(seed, sizes, precision, {"type": method, **{f"{method}_{key}": one for key, one in options.items()}})
    for _ in range(steps):
        found.train_step()
    expected = reference(found, method, **options)
    mine = found.hypergradient("upper", {one.name: one.cur_batch for one in found.problems})
    assert list(mine) == ["log", "shift"]
    # Differences of single-precision gradients keep few digits.
    scale = max(one.abs().max().item() for one in expected.values())
    close = {"fp64": 1e-9, "fp32": 1e-3 if method == "darts" else 1e-4}[precision]
    for name, value in expected.items():
        torch.testing.assert_close(mine[name], value, rtol=close, atol=close * scale)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), method=st.sampled_from(["darts", "sama"]))
def test_multitask_leaves_the_lower_where_the_last_perturbation_has_it(seed: int, method: str) -> None:
    """One step of length alpha down the upper's loss, along the solved adjoint; the upper's own step is the same."""
    alpha = {"darts_alpha": 0.1, "sama_adam_alpha": 0.1}
    plain, moved = (
        engine(seed, (2, 3), "fp64", {"type": method, f"{method}_multitask": flag, **alpha}) for flag in (False, True)
    )
    for one in (plain, moved):
        one.train_step()
    lower, upper = plain.problems
    torch.testing.assert_close(upper.module.state_dict(), moved.problems[1].module.state_dict(), rtol=0, atol=0)
    loss = upper_loss(lower, upper(), upper.cur_batch)
    # With SGD sama's adaptation is a multiple of the identity: the direction is that of the adjoint.
    down = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(lower.module.parameters()))])
    found = torch.cat([one.detach().flatten() for one in moved.problems[0].module.parameters()])
    start = torch.cat([one.detach().flatten() for one in lower.module.parameters()])
    torch.testing.assert_close(found, start - 0.1 * down / down.norm(), rtol=1e-6, atol=1e-8)


class IterativeLower(Lower, IterativeProblem):
    """The same problem, which answers through its own updates."""


@pytest.mark.parametrize("given", ["darts", "forward_mode", {"name": "unrolled", "remat": True}])
def test_an_iterative_problem_differentiates_its_updates(given: Any) -> None:
    """Against central differences of the whole loop, in the upper's parameters."""
    found = engine(3, (2, 3), "fp64", {})
    lower, upper = found.problems
    lower = IterativeLower(
        "lower",
        Config(type=given, precision="fp64", unroll_steps=4),
        lower.module,
        torch.optim.SGD(lower.module.parameters(), 0.05, momentum=0.9),
        None,
        lower.train_data_loader,
    )
    start = [copy.deepcopy(one.module.state_dict()) for one in (lower, upper)]
    found = Engine(
        problems=[lower, upper],
        dependencies={"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
        config=EngineConfig(strategy="cpu"),
    )
    (response,) = found.plan.step("upper").responses
    assert response.method.trajectory and response.method.steps in (4, None)
    shift, rate = upper.module.shift, upper.optimizer.param_groups[0]["lr"]
    upper.set_optimizer(torch.optim.SGD([shift], rate))
    found.run(4)
    moved = (start[1]["shift"] - shift.detach()) / rate
    batch_low, batch_up = lower.cur_batch, upper.cur_batch

    def whole(value: float) -> float:
        net = Net(2, 3).double()
        net.load_state_dict(start[0])
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
        decay = start[1]["log"].exp(), torch.tensor([value], dtype=torch.float64)
        for _ in range(4):
            optimizer.zero_grad()
            lower_loss(net, net, decay, batch_low).backward()
            optimizer.step()
        return upper_loss(net, decay, batch_up).item()

    at, step = start[1]["shift"].item(), 1e-5
    assert moved.item() == pytest.approx((whole(at + step) - whole(at - step)) / (2 * step), rel=1e-6)


def test_reinforce_in_a_class_program() -> None:
    """A lower that draws what it is rewarded for: the upper's reward moves its choice."""

    class Chooser(ImplicitProblem):
        def training_step(self, batch: Any) -> dict[str, Tensor]:
            choice = torch.distributions.Categorical(logits=self.module.weight[:, 0] + self.taste())  # type: ignore[attr-defined]
            drawn = choice.sample((64,))
            chance = choice.log_prob(drawn)
            reward = (drawn == 2).double()
            return {"loss": -(chance * reward).mean(), "log_prob": chance.sum()}

    class Taste(ImplicitProblem):
        def forward(self) -> Tensor:
            found: Tensor = self.module.weight[:, 0]
            return found

        def training_step(self, batch: Any) -> Tensor:
            return -torch.softmax(self.chooser.module.weight[:, 0] + self(), dim=0)[1]  # type: ignore[attr-defined]

    torch.manual_seed(0)
    nets = [nn.Linear(1, 3, bias=False).double() for _ in range(2)]
    chooser = Chooser(
        "chooser", Config(type="reinforce", precision="fp64"), nets[0], torch.optim.SGD(nets[0].parameters(), 0.01)
    )
    taste = Taste("taste", Config(precision="fp64"), nets[1], torch.optim.SGD(nets[1].parameters(), 1.0))
    for problem in (chooser, taste):
        problem.set_train_data_loader([None])
    found = Engine(
        problems=[chooser, taste],
        dependencies={"u2l": {taste: [chooser]}, "l2u": {chooser: [taste]}},
        config=EngineConfig(strategy="cpu"),
    )
    before = taste.training_step(None).item()
    assert "reinforce" in found.explain()
    found.run(40)
    assert taste.training_step(None).item() < before - 0.1
