"""Activation checkpointing: blocks of a module keep what they were given, and compute the rest again when it is needed.

Exact: dropout draws the same masks again. A block costs one more forward pass in every backward pass through it.

Reference: Chen et al. (2016), *Training Deep Nets with Sublinear Memory Cost*, arXiv:1604.06174;
``torch.utils.checkpoint`` without reentrant passes, which can be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

MARK = "_computes_again"


def recompute(module: nn.Module, names: Sequence[str] | None = None) -> list[str]:
    """Let blocks of a module compute their activations again.

    Args:
        module: The whole.
        names: Of its parts, or patterns such as ``layers.*``; where ``None``, the members of its lists and sequences
            that have parts themselves, such as the layers of a transformer, or the whole where there are none.

    Returns:
        The names of the blocks; the empty one is the module itself. Parts of a block are none.

    Raises:
        LookupError: A name fits no part; its argument is the name.
    """
    parts = dict(module.named_modules())
    if names is None:
        chosen = list(_blocks(module)) or [""]
    else:
        chosen = []
        for name in names:
            found = [one for one in parts if one and fnmatchcase(one, name)]
            if not found:
                raise LookupError(name)
            chosen += found
    outermost = [name for name in dict.fromkeys(chosen) if not any(_within(name, other) for other in chosen)]
    for name in outermost:
        kind = type(parts[name])
        if not kind.__dict__.get(MARK):
            parts[name].__class__ = _again(kind)  # type: ignore[arg-type]
    return outermost


def recomputes(module: nn.Module) -> bool:
    """Whether a part of a module computes its activations again."""
    return any(type(part).__dict__.get(MARK) for part in module.modules())


def _within(name: str, other: str) -> bool:
    return name != other and (not other or name.startswith(f"{other}."))


def _blocks(module: nn.Module, path: str = "") -> Iterator[str]:
    listing = isinstance(module, nn.Sequential | nn.ModuleList)
    for name, child in module.named_children():
        if listing and any(True for _ in child.children()) and not isinstance(child, nn.Sequential | nn.ModuleList):
            yield f"{path}{name}"
        else:
            yield from _blocks(child, f"{path}{name}.")


KERNELS: dict[SDPBackend, Callable[[], bool]] = {
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled,
    SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled,
}


class _Kernels:
    """Attention by some kernels alone; entered as often as activations are computed again."""

    def __init__(self, allowed: list[SDPBackend]) -> None:
        self._allowed, self._entered = allowed, list[AbstractContextManager[Any]]()

    def __enter__(self) -> None:
        self._entered.append(sdpa_kernel(self._allowed))
        self._entered[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)


def _alike() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Around a forward pass and around its repetition, which takes the kernels that were allowed at first.

    Losses that are differentiated twice are evaluated with plain kernels, and swept when these are no longer asked for.
    """
    allowed = [kernel for kernel, enabled in KERNELS.items() if enabled()]
    return nullcontext(), _Kernels(allowed) if allowed else nullcontext()


@cache
def _again(kind: type[nn.Module]) -> type[nn.Module]:
    """A class whose forward pass keeps nothing; a class, as copies of a module then are of it too."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        inner = partial(kind.forward, self)
        if not torch.is_grad_enabled():
            return inner(*args, **kwargs)
        return checkpoint(inner, *args, use_reentrant=False, context_fn=_alike, **kwargs)

    return type(
        kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__, "__doc__": kind.__doc__, MARK: True}
    )
