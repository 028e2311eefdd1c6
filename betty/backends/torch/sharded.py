"""A loss whose modules' parameters are spread over several processes: FSDP2, ``torch.distributed.fsdp.fully_shard``.

Such parameters are whole while a module computes and nowhere else. So no other tensors can stand in for them; they are
written to in place instead, for the time of an evaluation. And their gradients are added up over the processes as
they are accumulated into ``.grad``: what is found there is the mean already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from betty.backends.torch.objective import Objective, View, trainable
from betty.backends.torch.scaling import gradient_of
from betty.backends.torch.tree import Tree, sharded


class ShardedPlaces:
    """The trainable parameters of a module of which each process holds a part; the counterpart of ``swap.Places``."""

    def __init__(self, module: nn.Module, names: Collection[str] | None = None) -> None:
        self.module, self.tensors = module, trainable(module, names)
        self.standing: dict[int, Tensor] = {}
        """Those that have taken the values of other tensors, by the identity of these."""

    @contextmanager
    def holding(self, stand_ins: Sequence[Tensor]) -> Iterator[None]:
        """Hold the values of ``stand_ins``; the parameters are as before afterwards, bit for bit, in any case."""
        parts = _parts(self.tensors)
        before = [part.clone() for part in parts]
        try:
            _write(parts, _parts(stand_ins))
            self.standing = {id(one): own for one, own in zip(stand_ins, self.tensors, strict=True)}
            yield
        except BaseException:
            self._leave()
            raise
        finally:
            self.standing = {}
            _write(parts, before)

    def _leave(self) -> None:
        """Give up what a forward pass has gathered that did not come to its end: it holds the other values."""
        for part in self.module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()


class ShardedObjective(Objective):
    """The :class:`Objective` of a loss that reads at least one such module.

    Args:
        plain: The objective as it was before the modules were shared.
    """

    def __init__(self, plain: Objective) -> None:
        self.__dict__.update(plain.__dict__)
        self.sharded = True
        self._views = {key: View(key, module, fixed=True) for key, module in self.modules.items()}
        # The tensors of a shared module are always its own, whatever they hold.
        self._loose = {key: View(key, module, fixed=shared(module)) for key, module in self.modules.items()}
        self._shared = {
            key: ShardedPlaces(module, self._trained.get(key)) for key, module in self.modules.items() if shared(module)
        }
        self._parameters = {**self._parameters, **cast("dict[str, Any]", self._shared)}

    def derivative(self, loss: Tensor, by: Sequence[Tensor], scaler: Any, **options: Any) -> tuple[Any, ...]:
        """See :meth:`Objective.derivative`. Parts of parameters that processes share are means over these already."""
        standing = {key: own for places in self._shared.values() for key, own in places.standing.items()}
        targets = [standing.get(id(leaf), leaf) for leaf in by]
        if not any(map(sharded, targets)):
            return gradient_of(loss, by, scaler, **options)
        found = self._accumulated(loss, targets, scaler)
        if not options.get("materialize_grads"):
            return tuple(found)
        return tuple(torch.zeros_like(leaf) if part is None else part for leaf, part in zip(by, found, strict=True))

    def _accumulated(self, loss: Tensor, targets: Sequence[Tensor], scaler: Any) -> list[Tensor | None]:
        """What a backward pass leaves in ``.grad``, which is empty afterwards as it was before."""
        factor = 1.0 if scaler is None else scaler.get_scale()
        touched = [*targets, *(leaf for module in self.modules.values() for leaf in module.parameters())]
        try:
            (loss if scaler is None else scaler.scale(loss)).backward()
            found = [leaf.grad for leaf in targets]
        finally:
            for leaf in touched:
                leaf.grad = None
        return [part if part is None or factor == 1.0 else part / factor for part in found]


def shared(module: nn.Module) -> bool:
    """Whether a module's parameters are spread over processes."""
    return any(map(sharded, module.parameters()))


def _parts(tree: Sequence[Tensor]) -> Tree:
    """What this process holds of each tensor, to be written to in place."""
    with torch.no_grad():
        return tuple(cast("DTensor", leaf).to_local() for leaf in tree)


@torch.no_grad()
def _write(parts: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    if parts:
        torch._foreach_copy_(list(parts), list(values))
