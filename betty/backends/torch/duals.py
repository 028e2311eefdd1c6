"""Forward-mode differentiation by dual numbers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from betty.backends.torch.plain import substitute
from betty.backends.torch.tree import Tree


@contextmanager
def dual_level(*, switches: bool = True) -> Iterator[None]:
    """A level within which tensors may carry tangents; what is computed under ``torch.no_grad`` carries none.

    Args:
        switches: Whether that may occur at all, or a loss that needs a substitute; watching for them costs some
            microseconds an operation.
    """
    load_formulas()
    with forward_ad.dual_level(), torch.enable_grad(), _Constant() if switches else nullcontext():
        yield


class _Constant(TorchFunctionMode):
    """Let ``torch.no_grad`` make constants in forward mode as it does in reverse: torch itself carries tangents on.

    Losses whose gradients have no tangent in torch are computed by operations that have one.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = substitute(func, args, kwargs or {})
        found = func(*args, **(kwargs or {})) if plain is None else plain()
        if func is torch._C._set_grad_enabled:
            torch._C._set_fwd_grad_enabled(args[0])
        return found


def duals(primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tree:
    """Tensors that carry tangents; those of another dtype are taken over into that of the primals."""
    pairs = zip(primals, tangents, strict=True)
    return tuple(
        forward_ad.make_dual(one, change if change.dtype == one.dtype else change.to(one.dtype))
        for one, change in pairs
    )


def tangent(tensor: Tensor) -> Tensor:
    """The tangent that a tensor carries; zeros where it depends on nothing that has one."""
    found = forward_ad.unpack_dual(tensor).tangent
    return torch.zeros_like(tensor) if found is None else found


@functools.cache
def load_formulas() -> None:
    """Torch loads some formulas at their first use, by a compiler whose deprecation is no concern of the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with forward_ad.dual_level():
            value = forward_ad.make_dual(torch.ones(()), torch.ones(()))
            torch.nn.functional.softplus(value)
