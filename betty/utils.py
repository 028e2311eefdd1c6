"""Small helpers for programs: moving batches, reading gradients, printing losses."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from betty.backends.torch.stream import to_device
from betty.ir.diagnostics import BettyError


def convert_tensor(item: Any, device: torch.device | str | None = None, fp16: bool = False) -> Any:
    """``item`` with every tensor inside on ``device`` (or where it is), and its floats in half precision if asked for.

    Lists, tuples, mappings and objects that move themselves, such as a ``BatchEncoding``, keep their type; what holds
    no tensor stays as it is.
    """
    moved = item if device is None else to_device(item, torch.device(device))
    return _halved(moved) if fp16 else moved


def _halved(item: Any) -> Any:
    if isinstance(item, Tensor):
        return item.half() if item.is_floating_point() else item
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*map(_halved, item))
    if isinstance(item, list | tuple):
        return type(item)(map(_halved, item))
    if isinstance(item, MutableMapping):
        halved = copy.copy(item)
        halved.update({key: _halved(value) for key, value in item.items()})
        return halved
    return item


def log_from_loss_dict(loss_dict: Mapping[str, Any]) -> str:
    """One line of a log, such as ``loss: 0.5 || acc: 1.0``.

    Numbers are written with six digits; members of a list or dict follow as ``name_0`` or ``name_key``.
    """
    return " || ".join(f"{name}: {_told(value)}" for name, value in _flat(loss_dict, ()))


def _flat(value: Any, at: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping | list | tuple):
        yield "_".join(at), value
        return
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, one in pairs:
        yield from _flat(one, (*at, str(key)))


def _told(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach()
        value = value.item() if value.numel() == 1 else f"tensor of shape {tuple(value.shape)}"
    return float(f"{value:.6g}") if isinstance(value, float) else value


def to_vec(tensors: Iterable[Tensor], alpha: float = 1.0) -> Tensor:
    """``alpha`` times all entries of some tensors, as one vector."""
    return torch.cat([alpha * tensor.reshape(-1) for tensor in tensors])


def neg_with_none(value: Tensor | None) -> Tensor | None:
    """``-value``, and ``None`` for ``None``."""
    return None if value is None else -value


def replace_none_with_zero(tensors: Iterable[Tensor | None], reference: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """``tensors`` with zeros for each ``None``, shaped like the tensor in the same place of ``reference``."""
    pairs = zip(tensors, reference, strict=True)
    return tuple(torch.zeros_like(like) if tensor is None else tensor for tensor, like in pairs)


def get_grad_norm(parameters: Iterable[Tensor]) -> float:
    """The Euclidean norm of the gradients of all parameters together; those without one count as zero."""
    return _norm(parameter.grad for parameter in parameters)


def get_weight_norm(parameters: Iterable[Tensor]) -> float:
    """The Euclidean norm of all parameters together."""
    return _norm(parameters)


def _norm(tensors: Iterable[Tensor | None]) -> float:
    norms = [float(torch.linalg.vector_norm(tensor.detach())) for tensor in tensors if tensor is not None]
    return math.hypot(*norms)


def flatten_list(nested: Sequence[Any]) -> list[Any]:
    """A list of lists (or tuples) as one list, one level deep; other members stay as they are."""
    return [item for one in nested for item in (one if isinstance(one, list | tuple) else [one])]


def get_param_index(param: Tensor, params: Iterable[Tensor]) -> int:
    """The place of ``param`` itself, not of an equal tensor, in ``params``.

    Raises:
        BettyError: It is not among them.
    """
    for index, one in enumerate(params):
        if one is param:
            return index
    raise BettyError(f"a parameter of shape {tuple(param.shape)} is not among the given ones")
