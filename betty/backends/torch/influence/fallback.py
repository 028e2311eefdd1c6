"""Per-example gradients of parameters that no hook covers, by ``vmap`` over a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from betty.backends.torch.influence.transformed import transformed
from betty.backends.torch.influence.units import Unit
from betty.ir.diagnostics import listing


class Fallback:
    """The gradients of single examples by ``torch.func``, an example at a time in a batched pass.

    Args:
        model: The model.
        names: Qualified names of parameters.

    Attributes:
        units: A vector unit for each parameter.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model, self.names = model, tuple(names)
        known = dict(model.named_parameters())
        self.units = tuple(
            Unit(name, (name,), (tuple(known[name].shape),), 1, known[name].numel(), False) for name in self.names
        )

    def gradients(self, batch: Any, losses: Callable[[nn.Module, Any], Tensor]) -> dict[str, Tensor]:
        """``[n, entries]`` for each parameter, for a loss ``(model, batch) -> [n]``."""
        known = {name: leaf.detach() for name, leaf in self.model.named_parameters()}
        asked = {name: known.pop(name) for name in self.names}
        caller = _Caller(self.model, losses)
        rest = {f"model.{name}": leaf for name, leaf in known.items()}

        def one(leaves: Mapping[str, Tensor], example: Any) -> Tensor:
            alone = _mapped(example, lambda leaf: leaf.unsqueeze(0))
            named = {f"model.{name}": leaf for name, leaf in leaves.items()}
            found: Tensor = functional_call(caller, {**rest, **named}, (alone,))
            return found.sum()

        tensors = _only_tensors(batch)
        with transformed():
            found = vmap(grad(one), in_dims=(None, 0), randomness="different")(asked, tensors)
        return {name: value.flatten(1) for name, value in found.items()}

    def refused(self) -> str:
        """Why a loop of one's own cannot record these parameters."""
        return (
            f"{listing(list(self.names))}: gradients of single examples are had by calling the loss, and not from a "
            "backward pass: use log(loader), or choose layers"
        )


class _Caller(nn.Module):
    """A loss as a module, so that parameters can be put in the model's place."""

    def __init__(self, model: nn.Module, losses: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.losses = model, losses

    def forward(self, batch: Any) -> Tensor:
        return self.losses(self.model, batch)


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, change, tree)


def _only_tensors(batch: Any) -> Any:
    """The batch with every leaf a tensor, as ``vmap`` needs."""
    return dict(batch) if isinstance(batch, Mapping) else batch
