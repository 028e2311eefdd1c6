"""Exact products agree on networks of the common kinds: batch statistics, attention, recurrence, dropout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from betty.backends.torch.methods import FiniteDifference, Forward, Lower, Product, Reverse
from betty.backends.torch.tree import Tree
from tests.support.compare import assert_close, assert_same, flat
from tests.support.models import MODELS, lower_of

ROUNDING = {torch.float64: 1e-11, torch.float32: 5e-4}


def direction(point: Lower, seed: int) -> Tree:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for leaf in point.parameters)


def products(product: Product, point: Lower, v: Tree) -> tuple[Tree, Tree]:
    line = product.linearize(point)
    with torch.no_grad():
        return line.hessian(v), line.pull(v)["up"]


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_forward_and_reverse_agree_to_rounding(kind: str, dtype: torch.dtype, seed: int) -> None:
    point = lower_of(kind, dtype, seed)
    v = direction(point, seed)
    (image, pulled), (other, also) = products(Forward(), point, v), products(Reverse(), point, v)
    assert_close(flat(image), flat(other), ROUNDING[dtype])
    assert_close(flat(pulled), flat(also), ROUNDING[dtype])


@pytest.mark.parametrize("kind", MODELS)
def test_exact_products_are_the_limit_of_differences(kind: str) -> None:
    point = lower_of(kind, torch.float64)
    v = direction(point, 1)
    (image, pulled), (near, also) = products(Forward(), point, v), products(FiniteDifference(epsilon=1e-4), point, v)
    assert_close(flat(near), flat(image), 1e-5)
    assert_close(flat(also), flat(pulled), 1e-5)


@pytest.mark.parametrize("product", [Reverse(), Forward(), FiniteDifference()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("kind", MODELS)
def test_products_leave_the_module_as_it_was(kind: str, product: Product) -> None:
    point = lower_of(kind, torch.float32)
    modules = point.objective.modules
    before = [tensor.detach().clone() for module in modules.values() for tensor in module.state_dict().values()]
    state = torch.get_rng_state()
    products(product, point, direction(point, 2))
    after = [tensor for module in modules.values() for tensor in module.state_dict().values()]
    assert_same(after, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(leaf.grad is None for module in modules.values() for leaf in module.parameters())
