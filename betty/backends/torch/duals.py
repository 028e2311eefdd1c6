"""Forward-mode differentiation by dual numbers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad

from betty.backends.torch.tree import Tree


@contextmanager
def dual_level() -> Iterator[None]:
    """A level within which tensors may carry tangents."""
    _load_formulas()
    with forward_ad.dual_level():
        yield


def duals(primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tree:
    """Tensors that carry tangents; those of another dtype are taken over into that of the primals."""
    pairs = zip(primals, tangents, strict=True)
    return tuple(forward_ad.make_dual(primal, tangent.to(primal.dtype)) for primal, tangent in pairs)


def tangent(tensor: Tensor) -> Tensor:
    """The tangent that a tensor carries; zeros where it depends on nothing that has one."""
    found = forward_ad.unpack_dual(tensor).tangent
    return torch.zeros_like(tensor) if found is None else found


@functools.cache
def _load_formulas() -> None:
    """Torch loads some formulas at their first use, by a compiler whose deprecation is no concern of the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with forward_ad.dual_level():
            value = forward_ad.make_dual(torch.ones(()), torch.ones(()))
            torch.nn.functional.softplus(value)
