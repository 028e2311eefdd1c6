"""Arithmetic on trees against loops over their leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch import tree
from betty.backends.torch.tree import Tree

SHAPES = st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=4)
DTYPES = st.sampled_from([torch.float64, torch.float32])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tree, Tree]:
    """Two trees of the same shapes; leaves may be scalars, and may be empty."""
    shapes, dtype = draw(SHAPES), draw(DTYPES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    left = tuple(torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return left, tuple(torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)


def assert_equal(found: Tree, expected: list[Tensor]) -> None:
    assert isinstance(found, tuple)
    torch.testing.assert_close(list(found), expected)


@settings(max_examples=50)
@given(pair=pairs(), factor=st.floats(-3, 3))
def test_linear_operations(pair: tuple[Tree, Tree], factor: float) -> None:
    left, right = pair
    both = list(zip(left, right, strict=True))
    assert_equal(tree.add(left, right), [a + b for a, b in both])
    assert_equal(tree.subtract(left, right), [a - b for a, b in both])
    assert_equal(tree.scale(factor, left), [factor * a for a in left])
    assert_equal(tree.axpy(factor, left, right), [factor * a + b for a, b in both])
    on_device = torch.tensor(factor, dtype=left[0].dtype)
    assert_equal(tree.scale(on_device, left), [factor * a for a in left])
    assert_equal(tree.axpy(on_device, left, right), [factor * a + b for a, b in both])


@settings(max_examples=50)
@given(pair=pairs())
def test_reductions(pair: tuple[Tree, Tree]) -> None:
    left, right = pair
    products = [float((a * b).sum()) for a, b in zip(left, right, strict=True)]
    assert float(tree.dot(left, right)) == pytest.approx(sum(products), rel=1e-5, abs=1e-5)
    squares = [float(a.square().sum()) for a in left]
    assert float(tree.norm(left)) == pytest.approx(sum(squares) ** 0.5, rel=1e-5, abs=1e-6)
    assert tree.dot(left, right).shape == tree.norm(left).shape == ()


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_reductions_of_half_precision_are_taken_in_single(low: torch.dtype) -> None:
    """A thousand squares of 10 are beyond what half precision holds."""
    big = (torch.full((1000,), 10.0, dtype=low),)
    assert tree.dot(big, big).dtype == tree.norm(big).dtype == torch.float32
    assert float(tree.dot(big, big)) == 1e5
    assert float(tree.norm(big)) == pytest.approx(1e5**0.5)


@pytest.mark.parametrize(
    "operation",
    [tree.add, tree.subtract, lambda a, b: tree.scale(2.0, a), lambda a, b: tree.axpy(2.0, a, b)],
    ids=["add", "subtract", "scale", "axpy"],
)
def test_the_empty_tree_stays_empty(operation: Callable[[Tree, Tree], Tree]) -> None:
    assert operation((), ()) == ()


def test_copies_do_not_follow_their_originals() -> None:
    original = (torch.ones(2, requires_grad=True),)
    copied, fresh, cut = tree.copy(original), tree.leaves(original), tree.detach(original)
    with torch.no_grad():
        original[0].zero_()
    assert copied[0].tolist() == fresh[0].tolist() == [1.0, 1.0]
    assert cut[0].tolist() == [0.0, 0.0]
    assert fresh[0].requires_grad
    assert fresh[0].is_leaf
    assert not copied[0].requires_grad
    assert tree.zeros_like(copied)[0].tolist() == [0.0, 0.0]


def test_operations_stay_in_the_graph() -> None:
    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    value = tree.dot(tree.axpy(3.0, (leaf,), (leaf * leaf,)), (torch.ones(2),))
    (slope,) = torch.autograd.grad(value, leaf)
    assert slope.tolist() == [5.0, 7.0]
