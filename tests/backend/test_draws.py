"""A loss is spared the care for Python's and NumPy's generators only where it cannot draw from them."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from random import random as bare_random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import rand
from torch import nn
from torch import no_grad as frozen

from betty.backends.torch.draws import may_draw, may_switch


class Sampler:
    def draw(self) -> float:
        return random.random()

    def __call__(self) -> float:
        return random.random()


class Holder:
    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Augment(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + random.gauss(0, 1)


class Calm(nn.Module):
    def __init__(self, inner: Any = None) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * SCALE


SCALE = 2.0
SAMPLER = Sampler()
TABLE: dict[str, Any] = {"noise": random.random}
LIST = [1.0, Holder(TABLE)]


def helper() -> float:
    return float(np.random.normal())


def closing_over(thing: Any) -> Callable[..., Any]:
    def loss() -> Any:
        return thing

    return loss


def importing() -> Any:
    import random as hidden

    return hidden.random()


def default(draw: Any = bare_random) -> Any:
    return draw()


def nested() -> Any:
    return [list(map(lambda scale: scale * helper(), row)) for row in ([1], [2])]  # noqa: C417


DRAWING: dict[str, Callable[..., Any]] = {
    "module": lambda: -random.random(),
    "bare name": lambda: -bare_random(),
    "numpy": lambda: -np.random.rand(),
    "bare numpy": lambda: -rand(),
    "helper": lambda: -helper(),
    "nested": nested,
    "import inside": importing,
    "default": default,
    "partial": functools.partial(closing_over, random.random),
    "partial of a method": functools.partial(SAMPLER.draw),
    "method": SAMPLER.draw,
    "callable object": SAMPLER,
    "object whose method draws": lambda: -SAMPLER.draw(),
    "table of functions": lambda: -TABLE["noise"](),
    "deep inside a list": lambda: LIST,
    "closure over a function": closing_over(helper),
    "closure over an object": closing_over(SAMPLER),
    "closure over a holder": closing_over(Holder(SAMPLER)),
    "closure over a module": closing_over(Augment()),
    "eval": lambda: eval("1"),
}


def calm_loss(batch: Any, low: Any) -> Any:
    return (low(batch) - SCALE).square().mean() + sum(leaf.square().sum() for leaf in low.parameters.values())


CALM: dict[str, Callable[..., Any]] = {
    "torch alone": calm_loss,
    "partial": functools.partial(calm_loss, low=None),
    "closure over values": closing_over({"weight": torch.ones(2), "names": ["a", "b"], "shape": (1, 2)}),
    "closure over a module": closing_over(nn.Linear(2, 2)),
    "torch function": nn.functional.mse_loss,
    "torch module": nn.MSELoss(),
}


@pytest.mark.parametrize("name", sorted(DRAWING))
def test_a_loss_that_can_reach_a_host_generator_may_draw(name: str) -> None:
    assert may_draw(DRAWING[name], [])


@pytest.mark.parametrize("name", sorted(CALM))
def test_a_loss_of_torch_alone_does_not(name: str) -> None:
    assert not may_draw(CALM[name], [nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.LSTM(2, 2), Calm()])


@pytest.mark.parametrize(
    "module",
    [Augment(), nn.Sequential(Calm(), Augment()), Calm(Sampler()), Calm(helper)],
    ids=["its forward", "a part of it", "an attribute", "a function as attribute"],
)
def test_a_module_may_draw_for_its_loss(module: nn.Module) -> None:
    assert may_draw(calm_loss, [module])


def test_circles_end() -> None:
    holder = Holder(None)
    holder.inner = holder
    assert not may_draw(closing_over([holder]), [])


# -- switching gradients off


def plain(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x).detach() * SCALE


def in_a_block(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return x * 2


@torch.inference_mode()
def decorated(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def under_another_name(x: torch.Tensor) -> torch.Tensor:
    with frozen():
        return x * 2


def of_a_text(text: str) -> Any:
    return eval(text)


def by_a_call(x: torch.Tensor) -> torch.Tensor:
    torch.set_grad_enabled(False)
    return x


class Averaged(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return decorated(x)


SWITCHING: dict[str, tuple[Callable[..., Any], list[nn.Module]]] = {
    "in a block": (in_a_block, []),
    "decorated": (decorated, []),
    "under another name": (under_another_name, []),
    "by a call": (by_a_call, []),
    "in a module": (plain, [Averaged()]),
    "in a module's module": (plain, [nn.Sequential(nn.Linear(1, 1), Calm(Averaged()))]),
    "in a function of a closure": (closing_over(in_a_block), []),
    "in a parametrization of torch": (plain, [nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))]),
    "nobody knows": (of_a_text, []),
}


@pytest.mark.parametrize("case", SWITCHING)
def test_losses_that_may_switch_gradients_off(case: str) -> None:
    assert may_switch(*SWITCHING[case])


@pytest.mark.parametrize("modules", [[], [nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Dropout()), Calm()]])
def test_losses_that_cannot_are_spared(modules: list[nn.Module]) -> None:
    assert not may_switch(plain, modules)


def test_layers_of_torch_are_spared() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8)
    assert not may_switch(plain, [layer, nn.LSTM(2, 2), nn.Conv2d(1, 1, 1)])
