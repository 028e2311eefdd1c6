"""Arithmetic on tuples of tensors, one per parameter; a few kernels for all of them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tree = tuple[Tensor, ...]
"""One tensor per trainable parameter of a problem, in the order of ``module.parameters()``."""

Scalar = float | Tensor

HALF = (torch.bfloat16, torch.float16)


def zeros_like(tree: Sequence[Tensor]) -> Tree:
    return tuple(torch.zeros_like(leaf) for leaf in tree)


def detach(tree: Sequence[Tensor]) -> Tree:
    """The tree without its graph; leaves that have none are the same tensors."""
    return tuple([leaf.detach() if leaf.requires_grad else leaf for leaf in tree])


def copy(tree: Sequence[Tensor]) -> Tree:
    """Detached copies; later changes of the originals in place do not reach them."""
    return tuple(leaf.detach().clone() for leaf in tree)


def leaves(tree: Sequence[Tensor]) -> Tree:
    """Detached copies that gradients can be taken by."""
    return tuple(leaf.detach().clone().requires_grad_() for leaf in tree)


def add(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tree:
    return tuple(torch._foreach_add(list(left), list(right))) if left else ()


def subtract(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tree:
    return tuple(torch._foreach_sub(list(left), list(right))) if left else ()


def divide(tree: Tree, by: Sequence[Tensor] | None) -> Tree:
    """``tree / by``, an entry at a time; ``None`` stands for ones."""
    return tree if by is None or not tree else tuple(torch._foreach_div(list(tree), list(by)))


def scale(factor: Scalar, tree: Sequence[Tensor]) -> Tree:
    """``factor * tree``; a tensor factor is a 0-dimensional one on the device of the tree."""
    return tuple(torch._foreach_mul(list(tree), factor)) if tree else ()


def axpy(factor: Scalar, x: Sequence[Tensor], y: Sequence[Tensor]) -> Tree:
    """``factor * x + y``, as a constant: no derivative is taken by ``factor``."""
    if isinstance(factor, Tensor):
        if factor.device.type != "cpu":
            return add(scale(factor, x), y)
        factor = factor.item()  # there is no device to wait for, and one kernel does
    return tuple(torch._foreach_add(list(y), list(x), alpha=factor)) if y else ()


def sharded(leaf: Tensor) -> bool:
    """Whether each process holds a part of the tensor alone (a ``DTensor``)."""
    return hasattr(leaf, "full_tensor")


def entire(leaf: Tensor) -> Tensor:
    """All of a tensor; of one that processes share, what all of them hold, for which all have to ask."""
    gather: Callable[[], Tensor] | None = getattr(leaf, "full_tensor", None)
    return leaf if gather is None else gather()


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Inner product over all leaves, in at least single precision; stays on the device."""
    products = torch._foreach_mul(_wide(left), _wide(right))
    return entire(torch.stack([product.sum() for product in products]).sum())


def norm(tree: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all leaves, in at least single precision; stays on the device."""
    return entire(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(_wide(tree)))))


def flatten(tree: Sequence[Tensor]) -> Tensor:
    """All entries as one vector."""
    return torch.cat([leaf.reshape(-1) for leaf in tree]) if tree else torch.empty(0)


def unflatten(flat: Tensor, like: Sequence[Tensor]) -> Tree:
    """The inverse of :func:`flatten` for a tree shaped as ``like``."""
    parts = flat.split([leaf.numel() for leaf in like])
    return tuple(part.reshape(leaf.shape) for part, leaf in zip(parts, like, strict=True))


def wide(tree: Tree) -> Tree:
    """The tree in at least single precision; the same object where it is."""
    return tuple(_wide(tree)) if any(leaf.dtype in HALF for leaf in tree) else tree


def narrow(tree: Tree, like: Sequence[Tensor]) -> Tree:
    """The tree in the precisions of ``like``; the same object where it is."""
    pairs = list(zip(tree, like, strict=True))
    if all(leaf.dtype == one.dtype for leaf, one in pairs):
        return tree
    return tuple(leaf.to(one.dtype) for leaf, one in pairs)


def _wide(tree: Sequence[Tensor]) -> list[Tensor]:
    return [leaf if leaf.dtype in (torch.float32, torch.float64) else leaf.float() for leaf in tree]


def assign(tree: Tree, values: Tree) -> None:
    """Write values into the leaves of a tree, in place."""
    with torch.no_grad():
        for leaf, value in zip(tree, values, strict=True):
            leaf.copy_(value)
