"""How the transforms of ``torch.func`` go through a user's model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from betty.backends.torch.errors import RunError


@contextmanager
def transformed() -> Iterator[None]:
    """Within, what is compiled runs as it was written, and attention by its formula: fused or compiled code can be
    neither batched nor differentiated twice.

    Raises:
        RunError: The model computes activations again, which transforms cannot follow.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            yield
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        raise RunError(
            "the model computes activations again (torch.utils.checkpoint), which this method's derivatives cannot go "
            "through: switch that off while it is valued, or take kfac, ekfac, logra or gauss_newton"
        ) from error
