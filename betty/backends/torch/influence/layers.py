"""Of each kind of layer: its parameters as a unit, and what its input and its output's gradient make of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from betty.backends.torch.influence.units import Outer

Use = Callable[[Any, Tensor, Tensor], "Outer | Tensor"]
"""``(layer, input, gradient by output)`` to one use of a matrix unit (a right side without the bias), or to the
per-example gradient ``[n, size]`` of a vector unit."""


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of layer.

    Args:
        matrix: Whether the weight's gradient is a sum of outer products.
        use: What one use of it contributes.
        batch: Dimensions of an input of one example; more lie between the examples and them.
    """

    matrix: bool
    use: Use
    transposed: bool = False


def _positions(tensor: Tensor) -> Tensor:
    """``[n, ..., d]`` as ``[n, t, d]``."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _linear(layer: nn.Linear, given: Tensor, slope: Tensor) -> Outer:
    return Outer(_positions(slope), _positions(given))


def _embedding(layer: nn.Embedding, given: Tensor, slope: Tensor) -> Outer:
    places, right = given.reshape(len(given), -1), _positions(slope)
    if layer.padding_idx is not None:
        right = right * (places != layer.padding_idx).unsqueeze(-1)
    return Outer(places, right, rows=layer.num_embeddings)


def _patches(layer: Any, given: Tensor) -> Tensor:
    """What each output of a convolution sees: ``[n, channels, positions, kernel]``."""
    if layer.padding_mode != "zeros":
        given = functional.pad(given, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    elif isinstance(layer.padding, str):
        given = functional.pad(given, layer._reversed_padding_repeated_twice)
    else:
        given = functional.pad(given, [side for width in reversed(layer.padding) for side in (width, width)])
    sizes = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    for place, (kernel, stride, dilation) in enumerate(sizes):
        given = given.unfold(2 + place, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    spread = len(layer.kernel_size)
    return given.flatten(2 + spread).flatten(2, 1 + spread)


def _convolution(layer: Any, given: Tensor, slope: Tensor) -> Outer:
    seen = _patches(layer, given)
    return Outer(slope.flatten(2).transpose(1, 2), seen.transpose(1, 2).flatten(2))


def _grouped(layer: Any, given: Tensor, slope: Tensor) -> Tensor:
    count, groups = len(given), layer.groups
    seen = _patches(layer, given).unflatten(1, (groups, -1))
    own = slope.flatten(2).unflatten(1, (groups, -1))
    parts = [torch.einsum("ngot,ngctk->ngock", own, seen).reshape(count, -1)]
    return torch.cat([*parts, *([slope.flatten(2).sum(2)] if layer.bias is not None else [])], 1)


def _scaled(layer: Any, normal: Tensor, slope: Tensor, shared: tuple[int, ...]) -> Tensor:
    """Of a normalisation: its weight scales ``normal``; what is ``shared`` is summed over."""
    parts = [(normal * slope).sum(shared).flatten(1)] if shared else [(normal * slope).flatten(1)]
    if getattr(layer, "bias", None) is not None:
        parts.append((slope.sum(shared) if shared else slope).flatten(1))
    return torch.cat(parts, 1)


def _layer_norm(layer: nn.LayerNorm, given: Tensor, slope: Tensor) -> Tensor:
    normal = functional.layer_norm(given, layer.normalized_shape, eps=layer.eps)
    return _scaled(layer, normal, slope, tuple(range(1, given.dim() - len(layer.normalized_shape))))


def _rms_norm(layer: nn.RMSNorm, given: Tensor, slope: Tensor) -> Tensor:
    normal = functional.rms_norm(given, list(layer.normalized_shape), eps=layer.eps)
    return _scaled(layer, normal, slope, tuple(range(1, given.dim() - len(layer.normalized_shape))))


def _group_norm(layer: nn.GroupNorm, given: Tensor, slope: Tensor) -> Tensor:
    normal = functional.group_norm(given, layer.num_groups, eps=layer.eps)
    return _scaled(layer, normal, slope, tuple(range(2, given.dim())))


def _batch_norm(layer: Any, given: Tensor, slope: Tensor) -> Tensor:
    normal = functional.batch_norm(given, layer.running_mean, layer.running_var, eps=layer.eps)
    return _scaled(layer, normal, slope, tuple(range(2, given.dim())))


MATRICES: Mapping[type[nn.Module], Use] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
}
VECTORS: Mapping[type[nn.Module], Use] = {
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def kind_of(layer: nn.Module) -> Kind | None:
    """How a layer's gradients are had by hooks; ``None`` where they are not."""
    if isinstance(layer, CONVOLUTIONS) and layer.groups > 1:
        return Kind(False, _grouped)
    if type(layer).__name__ == "Conv1D" and cast("Tensor", getattr(layer, "weight", torch.zeros(0))).dim() == 2:
        return Kind(True, _linear, transposed=True)  # of Hugging Face: a linear layer whose weight is [in, out]
    # Subclasses may compute something else in their forward.
    for table, matrix in ((MATRICES, True), (VECTORS, False)):
        use = table.get(type(layer)) or next(
            (one for base, one in table.items() if isinstance(layer, base) and type(layer).forward is base.forward),
            None,
        )
        if use is not None and not _unfit(layer):
            return Kind(matrix, use)
    return None


def _unfit(layer: nn.Module) -> bool:
    """Layers whose examples are not apart, or whose weight is not what the kind says."""
    if isinstance(layer, nn.Embedding):
        return layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse
    tracked = getattr(layer, "track_running_stats", True)
    return not tracked or bool(getattr(layer, "parametrizations", None))


def matrix_shape(layer: nn.Module, kind: Kind, weight: Tensor) -> tuple[int, int]:
    """Rows and columns of a weight as a matrix, without a bias."""
    if kind.transposed:
        return weight.shape[1], weight.shape[0]
    return weight.shape[0], math.prod(weight.shape[1:])
