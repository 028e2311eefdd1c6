"""SAMA's adaptation against central differences of torch.optim's own steps by their gradient."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop, Rprop

from betty.backends.torch.adaptation import DIVISORS, adapt, diagonal, remember
from betty.backends.torch.errors import RunError
from betty.backends.torch.tree import Tree, zeros_like
from tests.support.compare import assert_close, assert_same, flat, relative_error
from tests.support.optimizers import EVERY_CASE, OptimizerCase, leaves_for, unrounded

D = torch.float64
STEP = 1e-6
CASES = {str(case): case for case in EVERY_CASE}


@pytest.fixture(autouse=True)
def smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    unrounded(monkeypatch)


@dataclass
class Run:
    """Parameters and their optimiser after a few updates with random gradients."""

    case: OptimizerCase
    before: int = 0
    dtype: torch.dtype = D
    leaves: list[nn.Parameter] = field(init=False)
    optimizer: Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.leaves = leaves_for(self.case, self.dtype)
        self.optimizer = self.case.make(self.leaves)
        for _ in range(self.before):
            self.step(self.random())

    def random(self) -> Tree:
        return tuple(torch.randn_like(leaf) for leaf in self.leaves)

    def step(self, gradient: Sequence[Tensor]) -> None:
        for leaf, part in zip(self.leaves, gradient, strict=True):
            leaf.grad = part.clone()
        self.optimizer.step()

    def update_by(self, gradient: Sequence[Tensor]) -> Tensor:
        """``u(g)``, by torch.optim, leaving this run as it is."""
        leaves = [nn.Parameter(leaf.detach().clone()) for leaf in self.leaves]
        optimizer = self.case.make(leaves)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        for leaf, part in zip(leaves, gradient, strict=True):
            leaf.grad = part.clone()
        optimizer.step()
        return flat(self.leaves) - flat(leaves)

    def by_differences(self, gradient: Tree, v: Tree) -> Tensor:
        """``(du/dg)^T v / lr``, one coordinate of the gradient at a time."""
        found = []
        for index, part in enumerate(gradient):
            for place in range(part.numel()):
                ahead, behind = [[other.clone() for other in gradient] for _ in range(2)]
                ahead[index].view(-1)[place] += STEP
                behind[index].view(-1)[place] -= STEP
                slope = (self.update_by(ahead) - self.update_by(behind)) / (2 * STEP)
                found.append(slope @ flat(v))
        return torch.stack(found) / float(self.optimizer.param_groups[0]["lr"])

    def adapted(self, gradient: Tree, v: Tree) -> Tree:
        """The adaptation after the update with this gradient."""
        last = remember(self.optimizer, tuple(self.leaves), gradient)
        self.step(gradient)
        return adapt(last, self.optimizer, tuple(self.leaves), v)


@pytest.mark.parametrize("before", [0, 1, 7])
@pytest.mark.parametrize("case", EVERY_CASE, ids=str)
def test_equals_central_differences_of_torchs_step(case: OptimizerCase, before: int) -> None:
    run = Run(case, before)
    gradient, v = run.random(), run.random()
    exact = run.by_differences(gradient, v)
    assert_close(flat(run.adapted(gradient, v)), exact, 1e-6)


@pytest.mark.parametrize(("before", "worst"), [(0, 0.5), (2, 0.3)])
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_adam_without_bias_corrections_would_be_far_off(kind: type[Optimizer], before: int, worst: float) -> None:
    """With the usual betas the first moments are a tenth and the second ones a thousandth of what they stand for."""
    run = Run(OptimizerCase(kind, (("lr", 0.1), ("eps", 0.1), ("weight_decay", 0.0))), before)
    gradient, v = run.random(), run.random()
    exact = run.by_differences(gradient, v)
    assert_close(flat(run.adapted(gradient, v)), exact, 1e-6)
    state = [run.optimizer.state[leaf] for leaf in run.leaves]
    mean, square = (flat([one[key] for one in state]) for key in ("exp_avg", "exp_avg_sq"))
    divisor = square.sqrt() + 0.1
    raw = (0.1 / divisor - mean * 0.001 * flat(gradient) / (square.sqrt() * divisor**2)) * flat(v)
    assert relative_error(raw, exact) > worst


def test_plain_sgd_leaves_v_as_it_is_and_keeps_nothing() -> None:
    run = Run(CASES["SGD,weight_decay=0.1"], before=1)
    gradient, v = run.random(), run.random()
    last = remember(run.optimizer, tuple(run.leaves), gradient)
    assert (last.gradient, last.parameters, last.states) == ((), (), ())
    assert_same(adapt(last, run.optimizer, tuple(run.leaves), v), v)
    assert_same(Run(CASES["SGD,maximize=True"]).adapted(gradient, v), [-part for part in v])


def test_what_is_kept_is_not_what_the_optimiser_goes_on_to_change() -> None:
    for case in EVERY_CASE:
        run = Run(case, before=1)
        gradient, v = run.random(), run.random()
        last = remember(run.optimizer, tuple(run.leaves), gradient)
        run.step(gradient)
        first = adapt(last, run.optimizer, tuple(run.leaves), v)
        for group in run.optimizer.param_groups:
            group["lr"] = 3.0 * group["lr"]
        assert_same(adapt(last, run.optimizer, tuple(run.leaves), v), first)


def test_parameters_that_the_optimizer_does_not_hold_gain_v() -> None:
    for kind in (SGD, Adam, RMSprop):
        leaves = [nn.Parameter(torch.randn(3, dtype=D)) for _ in range(3)]
        optimizer = kind(leaves[1:2], lr=0.1)
        gradient, v = (tuple(torch.randn_like(leaf) for leaf in leaves) for _ in range(2))
        last = remember(optimizer, tuple(leaves), gradient)
        leaves[1].grad = gradient[1]
        optimizer.step()
        found = adapt(last, optimizer, tuple(leaves), v)
        assert found[0] is v[0] and found[2] is v[2]
        assert_same(
            [part for i, part in enumerate(diagonal(last, optimizer, tuple(leaves))) if i != 1],
            [torch.ones(3, dtype=D)] * 2,
        )


def test_an_optimiser_without_a_rule_is_named() -> None:
    class Custom(SGD):
        """Its step may be anything."""

    leaf = nn.Parameter(torch.zeros(2))
    for optimizer in (Rprop([leaf]), Custom([leaf])):
        with pytest.raises(RunError, match=f"{type(optimizer).__name__} has no differentiable update"):
            remember(optimizer, (leaf,), (torch.zeros(2),))
    last = remember(SGD([leaf]), (leaf,), (torch.zeros(2),))
    with pytest.raises(RunError, match="Rprop has no differentiable update"):
        adapt(last, Rprop([leaf]), (leaf,), (torch.zeros(2),))


@pytest.mark.parametrize("case", EVERY_CASE, ids=str)
def test_finite_where_gradients_have_always_been_zero(case: OptimizerCase) -> None:
    run = Run(case, dtype=torch.float32)
    v = run.random()
    assert all(bool(torch.isfinite(part).all()) for part in run.adapted(zeros_like(run.leaves), v))


@pytest.mark.parametrize("name", ["SGD,momentum=0.8", "Adam", "RMSprop,momentum=0.6", "NAdam", "Adadelta", "Adagrad"])
def test_a_learning_rate_of_zero_has_the_limit_of_small_ones(name: str) -> None:
    runs = []
    for lr in (0.0, 0.05):
        torch.manual_seed(5)
        options = {**dict(CASES[name].options), "lr": lr, "weight_decay": 0.0}
        run = Run(OptimizerCase(CASES[name].kind, tuple(options.items())), before=2)
        gradient, v = run.random(), run.random()
        runs.append(flat(run.adapted(gradient, v)))
    assert_close(runs[0], runs[1], 1e-9)


def test_hyperparameters_may_be_tensors_and_may_change_later() -> None:
    options = {"lr": 0.1, "momentum": 0.8, "nesterov": True}
    expected = []
    for tensors in (False, True):
        torch.manual_seed(5)
        run = Run(OptimizerCase(SGD, tuple(options.items())), before=1)
        gradient, v = run.random(), run.random()
        momentum = torch.tensor(0.8, dtype=D, requires_grad=True)
        if tensors:
            run.optimizer.param_groups[0]["momentum"] = momentum
        last = remember(run.optimizer, tuple(run.leaves), gradient)
        with torch.no_grad():
            momentum.zero_()
        expected.append(flat(adapt(last, run.optimizer, tuple(run.leaves), v)))
    assert_close(expected[1], expected[0], 1e-12)
    assert_close(expected[1], 1.8 * flat(v), 1e-12)


DIVIDED = {
    "Adam": "exp_avg",
    "Adam,amsgrad=True": "exp_avg",
    "Adam,weight_decay=0.1": "exp_avg",
    "AdamW,amsgrad=True": "exp_avg",
    "Adamax": "exp_avg",
    "RAdam": "exp_avg",
    "RMSprop": "",
    "RMSprop,centered=True": "",
    "Adagrad": "",
    "Adagrad,initial_accumulator_value=0.05": "",
}
"""What is divided: a part of the state, or the gradient itself."""


@pytest.mark.parametrize("name", DIVIDED)
def test_the_diagonal_is_what_torch_has_divided_by(name: str) -> None:
    """It is, in every coordinate, the same multiple of the direction over the displacement."""
    run = Run(CASES[name], before=8)
    gradient, start = run.random(), flat(run.leaves)
    last = remember(run.optimizer, tuple(run.leaves), gradient)
    run.step(gradient)
    state = [run.optimizer.state[leaf] for leaf in run.leaves]
    direction = flat([one[DIVIDED[name]] for one in state]) if DIVIDED[name] else flat(gradient)
    ratio = flat(diagonal(last, run.optimizer, tuple(run.leaves))) * (start - flat(run.leaves)) / direction
    assert_close(ratio, ratio.mean() * torch.ones_like(ratio), 1e-6)


def test_the_diagonal_of_adadelta_is_what_an_update_with_the_same_moments_divides_by() -> None:
    run = Run(CASES["Adadelta"], before=8)
    run.optimizer.param_groups[0]["rho"] = 1.0
    gradient, start = run.random(), flat(run.leaves)
    last = remember(run.optimizer, tuple(run.leaves), gradient)
    run.step(gradient)
    lr = run.optimizer.param_groups[0]["lr"]
    expected = lr * flat(gradient) / (start - flat(run.leaves))
    assert_close(flat(diagonal(last, run.optimizer, tuple(run.leaves))), expected, 1e-9)


@pytest.mark.parametrize("case", EVERY_CASE, ids=str)
def test_the_diagonal_is_positive_and_one_where_nothing_is_divided(case: OptimizerCase) -> None:
    run = Run(case, before=0)
    last = remember(run.optimizer, tuple(run.leaves), run.random())
    for gradient in (zeros_like(run.leaves), run.random()):
        run.step(gradient)
        found = flat(diagonal(last, run.optimizer, tuple(run.leaves)))
        assert bool((found > 0).all()) and bool(torch.isfinite(found).all())
    if case.kind not in DIVISORS:
        assert_same([found], [torch.ones_like(found)])
    else:
        assert relative_error(found, torch.ones_like(found)) > 1e-2
