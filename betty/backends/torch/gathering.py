"""Parameters that processes share, as a loss reads them: whole, gathered when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from betty.backends.torch.tree import entire, sharded


class Gathered(Mapping[str, Tensor]):
    """Named parameters; each look-up gathers one of them from all processes, which have to ask alike."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters

    def __getitem__(self, name: str) -> Tensor:
        return gathered(self._parameters[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


def gathered(leaf: Tensor) -> Tensor:
    """All of a parameter; its gradient is the mean over the processes, as is that of what a module's forward uses."""
    if not sharded(leaf):
        return leaf
    from torch.distributed.tensor import DTensor, Partial

    shared = cast("DTensor", leaf)
    whole = shared.full_tensor(grad_placements=[Partial()])
    return cast("Tensor", _Share.apply(whole, shared.device_mesh.size()))  # type: ignore[no-untyped-call]


class _Share(torch.autograd.Function):
    """The identity; of its gradient, what one of so many processes adds to their mean."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, count: int) -> Tensor:
        ctx.count = count
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] / ctx.count, None


def method_of(module: nn.Module, name: str) -> Any:
    """An attribute of a module that processes share; a method has the parameters gathered as ``forward`` has."""
    found = getattr(module, name)
    own = type(module).__dict__.get(name) or next(
        (kind.__dict__[name] for kind in type(module).__mro__ if name in kind.__dict__), None
    )
    if not callable(own) or hasattr(nn.Module, name):
        return found
    from torch.distributed.fsdp import register_fsdp_forward_method

    register_fsdp_forward_method(module, name)
    # Taken from the instance again: where the module calls the method itself, its parameters are there already.
    wrapped: Callable[..., Any] = module.__dict__.pop(name, found)
    return wrapped


def whole_state(module: nn.Module, *, keep: bool = True) -> dict[str, Any]:
    """A module's ``state_dict`` with all of every tensor; all processes that share some have to ask.

    Args:
        module: The module.
        keep: Whether this process wants it; otherwise it takes part, and gets an empty one.
    """
    found: dict[str, Any] = {}
    for name, value in module.state_dict().items():
        shared = isinstance(value, Tensor) and sharded(value)
        # One at a time, and on the CPU: together they may not fit where the parts do.
        whole = entire(value.detach()).cpu() if shared else value
        if keep:
            found[name] = whole
    return found
