"""``torch.nn.MultiheadAttention`` with its projections in sight: torch computes them in one function."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Seen = Callable[[str, Tensor, Tensor, int], Tensor]
"""``(weight's name, input, output, first row)``: told of each projection, gives the output that goes on."""


def readable(layer: nn.Module) -> bool:
    """Whether the projections of a layer can be recorded: plain attention with weights of one kind."""
    return (
        type(layer) is nn.MultiheadAttention
        and layer.bias_k is None
        and layer.bias_v is None
        and not layer.add_zero_attn
    )


def projections(layer: nn.MultiheadAttention) -> dict[str, list[str]]:
    """The weights that are projections, with their biases: names within the layer."""
    own = dict(layer.named_parameters())
    bias = ["in_proj_bias"] if "in_proj_bias" in own else []
    if "in_proj_weight" in own:
        found = {"in_proj": ["in_proj_weight", *bias]}
    else:
        found = {f"{part}_proj": [f"{part}_proj_weight"] for part in "qkv"}
    out = ["out_proj.weight", *(["out_proj.bias"] if "out_proj.bias" in own else [])]
    return {**found, "out_proj": out}


class Attended:
    """In the place of a layer's ``forward``: the same result, each projection told.

    Args:
        layer: A readable one.
        seen: Told of projections.
    """

    def __init__(self, layer: nn.MultiheadAttention, seen: Seen) -> None:
        self.layer, self.seen = layer, seen

    def __call__(  # noqa: PLR0913 - the signature of torch.nn.MultiheadAttention.forward
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        del is_causal  # a hint about attn_mask, which is there beside it
        layer, single = self.layer, query.dim() == 2
        parts = [one.unsqueeze(0) if single else one for one in (query, key, value)]
        if not layer.batch_first and not single:
            parts = [one.transpose(0, 1) for one in parts]
        heads = [self._split(one) for one in self._inward(parts)]
        mask = self._mask(heads, key_padding_mask, attn_mask)
        mixed, weights = _attention(heads, mask, layer.dropout if layer.training else 0.0, need_weights)
        joined = mixed.transpose(1, 2).flatten(2)
        out = self.seen("out_proj", joined, functional.linear(joined, layer.out_proj.weight, layer.out_proj.bias), 0)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if single:
            return out[0], None if weights is None else weights[0]
        return (out if layer.batch_first else out.transpose(0, 1)), weights

    def _inward(self, parts: list[Tensor]) -> list[Tensor]:
        layer, width = self.layer, self.layer.embed_dim
        own, found = dict(layer.named_parameters()), []
        for place, (name, part) in enumerate(zip("qkv", parts, strict=True)):
            rows = slice(place * width, (place + 1) * width)
            bias = layer.in_proj_bias[rows] if "in_proj_bias" in own else None
            if "in_proj_weight" in own:
                made = functional.linear(part, layer.in_proj_weight[rows], bias)
                found.append(self.seen("in_proj", part, made, place * width))
            else:
                made = functional.linear(part, getattr(layer, f"{name}_proj_weight"))
                made = self.seen(f"{name}_proj", part, made, 0)
                found.append(made if bias is None else made + bias)
        return found

    def _split(self, part: Tensor) -> Tensor:
        split: Tensor = part.unflatten(-1, (self.layer.num_heads, -1))
        return split.transpose(1, 2)

    def _mask(self, heads: list[Tensor], padding: Tensor | None, given: Tensor | None) -> Tensor | None:
        """What is added to the scores, ``[n, heads, t, s]`` or broadcast to it."""
        count, number, length, _ = heads[0].shape
        total: Tensor | None = None
        if given is not None:
            shape = (count, number, length, -1) if given.dim() == 3 else (1, 1, length, -1)
            total = _additive(given, heads[0]).view(shape)
        if padding is not None:
            kept = _additive(padding, heads[0]).view(count, 1, 1, -1)
            total = kept if total is None else total + kept
        return total


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as what is added; of a boolean one, true is left out."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


def _attention(heads: list[Tensor], mask: Tensor | None, dropout: float, weighed: bool) -> tuple[Tensor, Tensor | None]:
    query, key, value = heads
    if not weighed:
        return functional.scaled_dot_product_attention(query, key, value, mask, dropout), None
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
    weights = functional.softmax(scores if mask is None else scores + mask, -1)
    weights = functional.dropout(weights, dropout) if dropout else weights
    return weights @ value, weights
