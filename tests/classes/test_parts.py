"""Modules, optimisers, schedulers and loaders of class programs: kept, configured, replaced, or refused."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from betty import BettyError, Config, Engine, EngineConfig, ImplicitProblem, RunError

CONFIG = EngineConfig(strategy="cpu")


class Fit(ImplicitProblem):
    def training_step(self, batch: Any) -> Tensor:
        inputs, targets = batch
        found: Tensor = ((self(inputs) - targets) ** 2).mean()
        return found


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, generator=generator), torch.randn(4, 2, generator=generator)) for _ in range(count)]


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def alone(problem: ImplicitProblem) -> Engine:
    return Engine(problems=[problem], config=CONFIG)


def fit(**parts: Any) -> Fit:
    return Fit("fit", parts.pop("config", None), **{"train_data_loader": batches(), **parts})


def optimizers() -> list[type[Optimizer]]:
    kinds = [kind for _, kind in inspect.getmembers(torch.optim, inspect.isclass) if issubclass(kind, Optimizer)]
    left_out = {Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam}
    return [kind for kind in kinds if kind not in left_out and kind.__name__ != "Muon"]


@pytest.mark.parametrize("kind", optimizers(), ids=lambda kind: kind.__name__)
def test_every_optimizer_is_kept_and_steps_as_in_a_plain_loop(kind: Callable[..., Optimizer]) -> None:
    module, plain = network(), network()
    optimizer, other = kind(module.parameters(), lr=0.05), kind(plain.parameters(), lr=0.05)
    problem = fit(module=module, optimizer=optimizer)
    engine = alone(problem)
    for step in range(5):
        engine.train_step()
        inputs, targets = batches()[step % 3]
        other.zero_grad()
        ((plain(inputs) - targets) ** 2).mean().backward()
        other.step()
    assert problem.optimizer is optimizer and problem.module is module
    for mine, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda one: lr_scheduler.LambdaLR(one, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda one: lr_scheduler.MultiplicativeLR(one, lambda step: 0.9),
    "StepLR": lambda one: lr_scheduler.StepLR(one, 2, 0.5),
    "MultiStepLR": lambda one: lr_scheduler.MultiStepLR(one, [1, 4]),
    "ConstantLR": lambda one: lr_scheduler.ConstantLR(one, 0.5, 3),
    "LinearLR": lambda one: lr_scheduler.LinearLR(one, 0.2, total_iters=4),
    "ExponentialLR": lambda one: lr_scheduler.ExponentialLR(one, 0.8),
    "SequentialLR": lambda one: lr_scheduler.SequentialLR(
        one, [lr_scheduler.ConstantLR(one, 0.1, 2), lr_scheduler.ExponentialLR(one, 0.9)], [2]
    ),
    "PolynomialLR": lambda one: lr_scheduler.PolynomialLR(one, 6, 2.0),
    "CosineAnnealingLR": lambda one: lr_scheduler.CosineAnnealingLR(one, 5),
    "ChainedScheduler": lambda one: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(one, 0.1, 2), lr_scheduler.ExponentialLR(one, 0.9)]
    ),
    "ReduceLROnPlateau": lambda one: lr_scheduler.ReduceLROnPlateau(one, factor=0.5, patience=0, threshold=1.0),
    "CyclicLR": lambda one: lr_scheduler.CyclicLR(one, 0.01, 0.1, 2),
    "OneCycleLR": lambda one: lr_scheduler.OneCycleLR(one, 0.1, total_steps=12),
    "CosineAnnealingWarmRestarts": lambda one: lr_scheduler.CosineAnnealingWarmRestarts(one, 3),
}


def test_every_scheduler_of_torch_is_among_them() -> None:
    known = {
        name
        for name, kind in inspect.getmembers(lr_scheduler, inspect.isclass)
        if issubclass(kind, lr_scheduler.LRScheduler) and not name.startswith("_") and name != "LRScheduler"
    }
    assert known == set(SCHEDULERS)


@pytest.mark.filterwarnings("ignore:.*deprecated.*:UserWarning")
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_is_kept_and_steps_once_an_update(name: str, accumulation: int) -> None:
    rates: list[list[float]] = []
    module, plain = network(), network()
    optimizer, other = (torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9) for one in (module, plain))
    scheduler, twin = SCHEDULERS[name](optimizer), SCHEDULERS[name](other)
    problem = fit(
        module=module, optimizer=optimizer, scheduler=scheduler, config=Config(gradient_accumulation=accumulation)
    )
    engine = alone(problem)
    data = [part for part in batches() for _ in range(accumulation)]
    problem.set_train_data_loader(data)
    for step in range(9):
        for _ in range(accumulation):
            engine.train_step()
        inputs, targets = batches()[step % 3]
        other.zero_grad()
        loss = ((plain(inputs) - targets) ** 2).mean()
        loss.backward()
        other.step()
        twin.step(loss.item()) if name == "ReduceLROnPlateau" else twin.step()
        rates.append([group["lr"] for one in (optimizer, other) for group in one.param_groups])
    assert problem.scheduler is scheduler
    assert all(mine == pytest.approx(theirs) for mine, theirs in rates)
    assert len({mine for mine, _ in rates}) > 1
    for mine, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


class Configured(Fit):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made: list[str] = []

    def configure_train_data_loader(self) -> Any:
        self.made.append("loader")
        return batches()

    def configure_module(self) -> nn.Module:
        self.made.append("module")
        return network().to(self.device)

    def configure_optimizer(self) -> Optimizer:
        self.made.append("optimizer")
        return torch.optim.SGD(self.module.parameters(), lr=0.1)

    def configure_scheduler(self) -> Any:
        self.made.append("scheduler")
        return lr_scheduler.StepLR(self.optimizer, 1)


def test_what_is_missing_is_configured_once_and_in_order() -> None:
    problem = Configured("fit")
    engine = alone(problem)
    engine.run(2)
    assert problem.made == ["loader", "module", "optimizer", "scheduler"]
    module = network()
    other = Configured("fit", module=module, train_data_loader=batches())
    alone(other)
    assert other.made == ["optimizer", "scheduler"] and other.module is module


def test_param_groups_go_into_the_optimizer_that_was_given() -> None:
    class Grouped(Fit):
        def param_groups(self) -> list[dict[str, Any]]:
            return [{"params": [self.module.weight], "weight_decay": 0.5}, {"params": [self.module.bias], "lr": 0.01}]

    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    problem = Grouped("fit", None, module, optimizer, scheduler, batches())
    engine = alone(problem)
    assert problem.optimizer is optimizer and problem.scheduler is scheduler
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.1, 0.5), (0.01, 0.0)]
    engine.run(2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.0025])


def test_parts_are_replaced_in_the_middle_of_a_run() -> None:
    problem = Configured("fit")
    engine = alone(problem)
    engine.run(2)
    first = problem.module
    held = copy.deepcopy(first.state_dict())
    problem.set_module(nn.Linear(3, 2))
    problem.set_optimizer(torch.optim.Adam(problem.module.parameters(), lr=0.01))
    problem.set_scheduler(None)
    problem.set_train_data_loader(batches(1))
    weight = problem.module.weight
    before = weight.detach().clone()
    result = engine.run(2)
    assert all(torch.equal(value, held[name]) for name, value in first.state_dict().items())
    assert not torch.equal(before, weight)
    assert problem.count == 4 and "Adam" in engine.explain() and result.iterations == 4
    assert engine.modules["fit"] is problem.module
    problem.optimizer = torch.optim.Adam(problem.module.parameters(), lr=0.0)
    before = weight.detach().clone()
    engine.run(1)
    assert torch.equal(before, weight)


def test_only_trainable_parameters_move() -> None:
    class Part(Fit):
        def trainable_parameters(self) -> Any:
            return [self.module.weight]

    module = network()
    problem = Part("fit", None, module, torch.optim.SGD(module.parameters(), lr=0.1), None, batches())
    bias = module.bias.clone()
    alone(problem).run(2)
    assert torch.equal(bias, module.bias) and module.bias.grad is None


@pytest.mark.parametrize("takes", [False, True])
def test_callbacks_with_and_without_an_argument(takes: bool) -> None:
    seen: dict[str, list[int]] = {"grad": [], "param": [], "custom": []}

    def note(kind: str, problem: Fit, given: Any) -> None:
        seen[kind].append(problem.count)
        assert given is None or [id(one) for one in given] == [id(one) for one in problem.trainable_parameters()]
        if kind == "custom":
            with torch.no_grad():
                for one in problem.trainable_parameters():
                    one.sub_(one.grad, alpha=0.1)  # type: ignore[arg-type]
        elif kind == "grad":
            for one in problem.trainable_parameters():
                one.grad.clamp_(-1e-3, 1e-3)  # type: ignore[union-attr]

    def hook(kind: str) -> Any:
        if takes and kind != "custom":
            return lambda self, params: note(kind, self, params)
        return lambda self: note(kind, self, None)

    names = {"grad": "grad_callback", "param": "param_callback", "custom": "custom_optimizer_step"}
    hooked = type("Hooked", (Fit,), {names[kind]: hook(kind) for kind in names})
    module = network()
    problem = hooked("fit", Config(gradient_accumulation=2), module=module, train_data_loader=batches())
    before = module.weight.clone()
    alone(problem).run(4)
    assert seen == {"grad": [2, 4], "param": [2, 4], "custom": [2, 4]}
    assert 0 < (module.weight - before).abs().max() <= 2 * 1e-4 + 1e-7


def refused(problem: ImplicitProblem) -> str:
    with pytest.raises(BettyError) as caught:
        alone(problem).run(1)
    return str(caught.value)


def test_missing_and_wrong_parts_are_named() -> None:
    module, other = network(), network()
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    wrong: dict[str, ImplicitProblem] = {
        "has nothing as its module: expected a torch.nn.Module": fit(),
        "has a function as its module": fit(module=network),
        "holds none of the parameters of its module": fit(module=other, optimizer=sgd),
        "moves another optimizer than the problem's": fit(
            module=other,
            optimizer=torch.optim.SGD(other.parameters(), lr=0.1),
            scheduler=lr_scheduler.StepLR(sgd, 1),
        ),
        "is LBFGS, which evaluates the loss again by itself": fit(
            module=module, optimizer=torch.optim.LBFGS(module.parameters())
        ),
        "is a dict: expected a torch.optim.Optimizer": fit(module=module, optimizer={"lr": 0.1}),
        "has no data: give it a train_data_loader": fit(module=module, optimizer=sgd, train_data_loader=None),
        "defines no training_step": ImplicitProblem("fit", None, module, sgd, None, batches()),
        "holds no batch": fit(module=module, optimizer=sgd, train_data_loader=[]),
        "expected an iterable of batches": fit(module=module, optimizer=sgd, train_data_loader=3),
    }
    for message, problem in wrong.items():
        assert message in refused(problem)


def test_a_name_must_be_an_identifier() -> None:
    with pytest.raises(BettyError, match="'my net' cannot name a problem"):
        Fit("my net")
    with pytest.raises(BettyError, match="belongs to no engine yet"):
        Fit("fit").step()


def test_trainable_parameters_must_be_of_the_module() -> None:
    class Foreign(Fit):
        def trainable_parameters(self) -> Any:
            return [nn.Parameter(torch.ones(1))]

    module = network()
    text = refused(Foreign("fit", None, module, torch.optim.SGD(module.parameters(), 0.1), None, batches()))
    assert "returns 1 tensors that are no parameters of its module" in text


def test_data_that_raises_says_so() -> None:
    def broken() -> Any:
        yield batches()[0]
        raise RuntimeError("the disk is gone")

    module = network()
    problem = fit(module=module, optimizer=torch.optim.SGD(module.parameters(), 0.1), train_data_loader=broken())
    engine = alone(problem)
    with pytest.raises(RuntimeError, match="the disk is gone") as caught:
        engine.run(3)
    assert not isinstance(caught.value, RunError)
    assert any("problem 'fit'" in note for note in caught.value.__notes__)
