"""What tells one model from another."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from betty.backends.torch.tree import entire

STRUCTURE = 16
"""Hexadecimal digits of each half of a fingerprint."""
ANY = "*"
"""In place of the values' half: the model was being trained while its examples were recorded."""


def fingerprint(model: nn.Module, *, values: bool = True) -> str:
    """A model's names and shapes, and the values of its parameters and buffers, as ``structure-values``."""
    names, content = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        names.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if values:
            whole = entire(tensor.detach()).contiguous().cpu()
            content.update(whole.reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{names.hexdigest()[:STRUCTURE]}-{content.hexdigest()[:STRUCTURE] if values else ANY}"
