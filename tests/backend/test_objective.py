"""Losses as functions: what they may return, what they are given, and tensors that stand in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from betty.backends.torch.errors import RunError
from betty.backends.torch.objective import Objective, ParameterModule, Sample, View, trainable, trainable_names
from tests.support.compare import assert_same
from tests.support.programs import CPU


def objective(loss: Any, **modules: nn.Module) -> Objective:
    return Objective("low", loss, modules, takes_batch=False, device=CPU)


def of_point(value: Any) -> Objective:
    """An objective whose loss makes ``value`` of the parameter ``w``, two ones."""
    return objective(lambda low: value(low.parameters["w"]), low=ParameterModule({"w": torch.ones(2)}))


def test_a_scalar_or_a_single_entry_is_a_loss() -> None:
    for value in (lambda w: w.sum(), lambda w: w.sum().reshape(1, 1)):
        evaluation = of_point(value).live(None)
        assert evaluation.loss.shape == ()
        assert evaluation.metrics == {}


def test_a_dict_holds_the_loss_and_metrics_that_are_detached() -> None:
    found = of_point(lambda w: {"loss": w.sum(), "size": w.square().sum(), "rate": 0.5, 3: "text"}).live(None)
    assert found.loss.requires_grad
    assert set(found.metrics) == {"size", "rate", "3"}
    assert isinstance(found.metrics["size"], Tensor)
    assert not found.metrics["size"].requires_grad
    assert float(found.metrics["size"]) == 2.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda w: {"los": w.sum(), "accuracy": 1.0}, "returned a dict without 'loss': ['accuracy', 'los']"),
        (lambda w: {1: w.sum()}, "returned a dict without 'loss': ['1']"),
        (lambda w: w, "returned a tensor of shape [2]; it must be a scalar tensor or a dict"),
        (lambda w: w[:0], "returned a tensor of shape [0]; it must be a scalar tensor or a dict"),
        (lambda w: float(w.sum().detach()), "returned float; it must be a scalar tensor or a dict"),
        (lambda w: None, "returned NoneType; it must be a scalar tensor or a dict"),
        (lambda w: (w.sum(), {}), "returned tuple; it must be a scalar tensor or a dict"),
        (lambda w: {"loss": [w.sum()]}, "returned list; it must be a scalar tensor or a dict"),
        (lambda w: w.sum().detach(), "depends on no trainable parameter of what it reads"),
        (lambda w: {"loss": torch.tensor(1.0)}, "depends on no trainable parameter of what it reads"),
    ],
)
def test_anything_else_is_refused(value: Any, message: str) -> None:
    with pytest.raises(RunError) as caught:
        of_point(value).live(None)
    assert str(caught.value) == f"RunError: the loss of 'low' {message}"


def test_without_gradients_a_constant_is_a_loss() -> None:
    """Validation evaluates losses without a graph."""
    with torch.no_grad():
        assert of_point(lambda w: w.sum()).live(None).loss.item() == 2.0


def test_a_set_of_parameters_cannot_be_called() -> None:
    module = ParameterModule({"alpha": torch.ones(()), "beta": torch.zeros(2)})
    with pytest.raises(RunError) as caught:
        objective(lambda low: low(1.0), low=module).live(None)
    expected = "this problem is a set of parameters and cannot be called; read them as "
    assert str(caught.value) == f"RunError: {expected}.parameters['alpha'], .parameters['beta']"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(2, 3), nn.Linear(3, 1)
        self.scale = 2.0

    def forward(self, x: Tensor, *, twice: bool = False) -> Tensor:
        value: Tensor = self.head(self.encoder(x))
        return 2 * value if twice else value

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.encoder(x)
        return found


def test_a_view_is_its_module() -> None:
    net = Net()
    view, x = View("low", net), torch.ones(1, 2)
    assert torch.equal(view(x, twice=True), net(x, twice=True))
    assert dict(view.parameters) == dict(net.named_parameters())
    assert view.encoder is net.encoder
    assert view.module is net
    assert (view.scale, view.name) == (2.0, "low")
    assert torch.equal(view.features(x), net.features(x))
    with pytest.raises(AttributeError, match="missing"):
        view.missing  # noqa: B018


WAYS: dict[str, Any] = {
    "call": lambda low: low(torch.ones(1, 2)).sum(),
    "submodules": lambda low: low.head(low.encoder(torch.ones(1, 2))).sum(),
    "method": lambda low: low.head(low.features(torch.ones(1, 2))).sum(),
    "module": lambda low: low.module(torch.ones(1, 2)).sum(),
    "parameters": lambda low: sum(leaf.sum() for leaf in low.parameters.values()),
    "attribute": lambda low: low.head.weight.sum() + low.encoder.bias.sum(),
}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_tensors_that_stand_in_are_seen_however_the_module_is_used(way: str) -> None:
    net = Net()
    own = [leaf.detach().clone() for leaf in net.parameters()]
    asked = objective(WAYS[way], low=net)
    stand_ins = tuple(torch.full_like(leaf, 0.5).requires_grad_() for leaf in net.parameters())
    live, loss = asked.live(None).loss, asked.pure(Sample(None), {"low": stand_ins})
    assert not torch.equal(live, loss)
    assert any(slope is not None for slope in torch.autograd.grad(loss, stand_ins, allow_unused=True))
    assert_same(list(net.parameters()), own)
    assert all(isinstance(leaf, nn.Parameter) for leaf in net.parameters())
    assert torch.equal(asked.live(None).loss, live)


@pytest.mark.parametrize("names", [("train", "forward"), ("keys", "items"), ("read", "loss"), ("eval", "to")])
def test_problems_may_be_called_like_anything(names: tuple[str, str]) -> None:
    first, second = names

    def loss(batch: Tensor, **views: View) -> Tensor:
        assert set(views) == set(names)
        return batch * views[first].parameters["w"] * views[second].parameters["w"]

    modules = {name: ParameterModule({"w": torch.tensor(float(index + 2))}) for index, name in enumerate(names)}
    asked = Objective("low", loss, modules, takes_batch=True, device=CPU)
    five = (torch.tensor(5.0, requires_grad=True),)
    assert asked.live(torch.tensor(1.0)).loss.item() == 6.0
    assert asked.pure(Sample(torch.tensor(1.0)), {second: five}).item() == 10.0
    assert asked.pure(Sample(torch.tensor(1.0)), {first: five, second: five}).item() == 25.0


def test_what_stands_in_for_a_problem_that_the_loss_does_not_read_is_ignored() -> None:
    asked = of_point(lambda w: w.sum())
    assert asked.pure(Sample(None), {"other": (torch.ones(3),)}).item() == 2.0


class Tied(nn.Module):
    """One weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.embed(x))
        return found


def test_tied_weights_are_replaced_everywhere_and_frozen_ones_nowhere() -> None:
    tied = Tied()
    net = nn.Sequential(tied, nn.Linear(3, 1))
    net[1].weight.requires_grad_(False)
    assert trainable_names(net) == ["0.embed.weight", "1.bias"]
    assert [leaf.shape for leaf in trainable(net)] == [(3, 3), (1,)]
    asked = objective(lambda low: low(torch.ones(1, 3)).sum(), low=net)
    zero = (torch.zeros(3, 3, requires_grad=True), torch.tensor([7.0], requires_grad=True))
    assert asked.pure(Sample(None), {"low": zero}).item() == 7.0
    assert tied.out.weight is tied.embed.weight


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_compute_with_what_stands_in(kind: type[nn.LSTM]) -> None:
    net = kind(2, 3)
    asked = objective(lambda low: low(torch.ones(4, 1, 2))[0].sum(), low=net)
    zeros = tuple(torch.zeros_like(leaf).requires_grad_() for leaf in net.parameters())
    assert asked.pure(Sample(None), {"low": zeros}).item() == 0.0
    assert asked.live(None).loss.item() != 0.0


def test_an_exception_puts_the_modules_own_tensors_back() -> None:
    net = Net()
    own = list(net.parameters())

    def loss(low: View) -> Tensor:
        raise KeyError(low.parameters["head.bias"].item())

    with pytest.raises(KeyError, match=r"0\.25"):
        objective(loss, low=net).pure(Sample(None), {"low": tuple(torch.full_like(leaf, 0.25) for leaf in own)})
    assert all(one is other for one, other in zip(net.parameters(), own, strict=True))


def test_autocast_lowers_the_precision_of_the_forward_pass_alone() -> None:
    seen: list[torch.dtype] = []

    def loss(low: View) -> Tensor:
        value = low(torch.ones(1, 2))
        seen.append(value.dtype)
        return value.float().sum()

    asked = Objective("low", loss, {"low": Net()}, takes_batch=False, device=CPU, autocast=torch.bfloat16)
    assert asked.live(None).loss.dtype == torch.float32
    asked.pure(Sample(None), {})
    assert seen == [torch.bfloat16, torch.bfloat16]
