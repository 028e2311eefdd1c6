"""A problem's loss as a function: on the live parameters, or purely on tensors that stand in for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from betty.backends.torch.draws import may_attend, may_draw, may_rerun, may_switch
from betty.backends.torch.duals import tangent
from betty.backends.torch.errors import RunError
from betty.backends.torch.gathering import Gathered, method_of
from betty.backends.torch.random import RandomState, replaying
from betty.backends.torch.recompute import recomputes
from betty.backends.torch.scaling import gradient_of
from betty.backends.torch.swap import Buffers, Places
from betty.backends.torch.tree import Tree, sharded

if TYPE_CHECKING:
    from betty.backends.torch.compiling.products import Products

LOG_PROB = "log_prob"
"""Key of a loss's result for the logarithm of the probability of what it has drawn."""


class ParameterModule(nn.Module):
    """A problem without a module of its own: a plain set of named parameters."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RunError(
            "this problem is a set of parameters and cannot be called; read them as "
            + ", ".join(f".parameters[{name!r}]" for name, _ in self.named_parameters())
        )


class View:
    """A problem as another's loss sees it: callable as its module, with its named tensors in ``parameters``.

    Attributes of the module (submodules, methods) are reached as on the module itself.
    """

    def __init__(self, name: str, module: nn.Module, *, fixed: bool = False) -> None:
        # No slots: torch.compile looks for the attributes of an object in its dict.
        self.name, self._module = name, module
        # Named once where the tensors are always the module's own, looked up at each access where others may stand in.
        self._fixed = dict(module.named_parameters()) if fixed else None
        self._sharded = any(map(sharded, module.parameters()))
        self._places: list[tuple[str, dict[str, Any], str]] | None = None

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        if self._fixed is not None:
            return Gathered(self._fixed) if self._sharded else self._fixed
        if self._places is None:
            self._places = named_places(self._module)
        return {name: held[key] for name, held, key in self._places}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return method_of(self._module, name) if self._sharded else getattr(self._module, name)


@dataclass(frozen=True, eq=False)
class Sample:
    """A micro-batch that a problem has stepped on, and the random state with which its loss was evaluated."""

    batch: Any
    random: RandomState | None = None
    weight: float = 1.0
    """Of the loss, where several processes train and have unequal parts of the whole batch."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The loss of one micro-batch with its graph, and the metrics beside it (detached)."""

    loss: Tensor
    metrics: Mapping[str, Tensor | float]
    log_prob: Tensor | None = None
    """Logarithm of the probability of what the loss has drawn, with its graph, where the loss gives it."""


NOTHING = nullcontext()


@contextmanager
def _entered(contexts: Sequence[AbstractContextManager[None]]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


class Objective:
    """A problem's loss as a function of the tensors in the modules that it reads.

    Args:
        name: The problem's name.
        loss: Called with ``batch`` (where ``takes_batch``) and one :class:`View` for every name in ``modules``.
        modules: Modules of the problems that the loss names, its own included where it does.
        takes_batch: Whether the loss has a parameter ``batch``.
        device: Where the problem runs.
        autocast: Lower precision of the forward pass, or ``None``.
        trained: Names of the parameters that a problem's steps move, where these are not all that require a gradient.
    """

    def __init__(
        self,
        name: str,
        loss: Callable[..., Any],
        modules: Mapping[str, nn.Module],
        *,
        takes_batch: bool,
        device: torch.device,
        autocast: torch.dtype | None = None,
        trained: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self.name, self.loss, self.modules, self.device = name, loss, dict(modules), device
        self._takes_batch, self.autocast, self._trained = takes_batch, autocast, dict(trained or {})
        self._views = {key: View(key, module, fixed=True) for key, module in modules.items()}
        self._loose = {key: View(key, module) for key, module in modules.items()}
        self._parameters = {key: Places(module, self._trained.get(key)) for key, module in modules.items()}
        self.buffers = Buffers(modules.values())
        self.host_draws = may_draw(loss, modules.values())
        self.switches = may_switch(loss, modules.values())
        self.reruns = any(map(recomputes, modules.values())) or may_rerun(loss, modules.values())
        self._attends = may_attend(loss, modules.values())
        self.sharded = False
        """Whether processes share parameters of these modules."""
        self.quick: Callable[..., Any] | None = None
        """The loss where first derivatives are all that is taken of it, compiled, if that is asked for."""
        self.products: Products | None = None
        """Compiled products of the loss's derivatives, if they are asked for."""
        self.scaler: Any = None
        """Scales the loss up for the backward pass, where that runs in half precision."""
        self.smooth_tangents = True
        """Whether tangents of the loss are known to be differentiable, or not known not to be."""
        self.undone: Callable[[], AbstractContextManager[None]] = nullcontext
        """Takes back, around an evaluation that no step asks for, what the loss does to objects of the program."""
        self._recurrent = any(isinstance(part, nn.RNNBase) for one in modules.values() for part in one.modules())

    def live(self, batch: Any, weight: float = 1.0) -> Evaluation:
        """Evaluate as the program itself does: buffers and random states move on."""
        return self._evaluate(batch, self._views, weight, self.quick)

    def pure(self, sample: Sample, stand_ins: Mapping[str, Sequence[Tensor]]) -> Tensor:
        """The loss with other tensors in the place of the trainable parameters of the problems in ``stand_ins``.

        Buffers, random states and parameters are as before afterwards, also after an exception; dropout masks are
        those of the sample.
        """
        return self.evaluated(sample, stand_ins).loss

    def evaluated(self, sample: Sample, stand_ins: Mapping[str, Sequence[Tensor]]) -> Evaluation:
        """The pure evaluation, metrics included; see :meth:`pure`."""
        with replaying(sample.random, self.device, host=self.host_draws):
            return self.standing_in(sample.batch, stand_ins, sample.weight, buffers=True)

    def gradient(self, sample: Sample, stand_ins: Mapping[str, Sequence[Tensor]], by: Sequence[Tensor]) -> Tree:
        """The gradient of the pure loss by tensors in place; zeros for those that the loss does not use.

        The backward pass runs with the tensors in place too: activation checkpointing evaluates the module in it.
        """
        with replaying(sample.random, self.device, host=self.host_draws), self.holding(stand_ins, buffers=True):
            with torch.enable_grad():
                loss = self._evaluate(sample.batch, self._loose, sample.weight, self.quick, lenient=True).loss
            if not loss.requires_grad:
                return tuple(torch.zeros_like(leaf) for leaf in by)
            return self.derivative(loss, by, self.scaler, allow_unused=True, materialize_grads=True)

    def derivative(self, loss: Tensor, by: Sequence[Tensor], scaler: Any, **options: Any) -> tuple[Any, ...]:
        """The gradient of a loss that this objective has given, by tensors in place; see :func:`gradient_of`."""
        return gradient_of(loss, by, scaler, **options)

    def slope(self, sample: Sample, stand_ins: Mapping[str, Sequence[Tensor]], by: Sequence[Tensor]) -> Tree:
        """The gradient of the pure loss's tangent, where stand-ins carry tangents; zeros where it has none."""
        with replaying(sample.random, self.device, host=self.host_draws), self.holding(stand_ins, buffers=True):
            change = tangent(self._evaluate(sample.batch, self._loose, sample.weight, lenient=True).loss)
            if not change.requires_grad:
                return tuple(torch.zeros_like(leaf) for leaf in by)
            return gradient_of(change, by, self.scaler, allow_unused=True, materialize_grads=True)

    def standing_in(
        self, batch: Any, stand_ins: Mapping[str, Sequence[Tensor]], weight: float = 1.0, *, buffers: bool
    ) -> Evaluation:
        """The evaluation with other tensors in place; with ``buffers``, those of the modules are spared."""
        views = self._loose if any(name in self.modules for name in stand_ins) else self._views
        with self.holding(stand_ins, buffers=buffers):
            return self._evaluate(batch, views, weight)

    def holding(
        self, stand_ins: Mapping[str, Sequence[Tensor]], *, buffers: bool = False
    ) -> AbstractContextManager[None]:
        """Let the modules hold other tensors; with ``buffers``, copies of their buffers too."""
        held = [self._parameters[name].holding(leaves) for name, leaves in stand_ins.items() if name in self.modules]
        if buffers and not self.buffers.none:
            held.append(self.buffers.spared())
        if buffers and self.undone is not nullcontext:
            held.append(self.undone())
        if not held:
            return NOTHING
        return held[0] if len(held) == 1 else _entered(held)

    def held(self, batch: Any, weight: float = 1.0) -> Evaluation:
        """The evaluation with whatever tensors the modules hold at the moment."""
        return self._evaluate(batch, self._loose, weight)

    def differentiable(self) -> AbstractContextManager[None]:
        """Kernels whose gradients can be differentiated, in forward mode too, in the place of fused ones.

        Attention is computed plainly where there may be any; so are recurrent layers.
        """
        flags: list[AbstractContextManager[None]] = []
        if self._attends:
            flags.append(sdpa_kernel(SDPBackend.MATH))
        if self._recurrent:
            # Left to itself this would switch on TF32 as well, and warn where there is none.
            flags.append(torch.backends.mkldnn.flags(enabled=False, allow_tf32=None))
            if self.device.type == "cuda":
                flags.append(torch.backends.cudnn.flags(enabled=False))
        return _entered(flags) if flags else NOTHING

    def arguments(self, batch: Any, views: Mapping[str, View] | None = None) -> Mapping[str, Any]:
        """What the loss is called with, of whatever tensors the modules hold at the moment."""
        views = self._loose if views is None else views
        return {"batch": batch, **views} if self._takes_batch else views

    def casting(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass."""
        return NOTHING if self.autocast is None else torch.autocast(self.device.type, dtype=self.autocast)

    def _evaluate(
        self,
        batch: Any,
        views: Mapping[str, View],
        weight: float = 1.0,
        loss: Callable[..., Any] | None = None,
        *,
        lenient: bool = False,
    ) -> Evaluation:
        arguments, loss = self.arguments(batch, views), loss or self.loss
        if self.autocast is None:
            found = self.checked(loss(**arguments), lenient=lenient)
        else:
            with self.casting():
                found = self.checked(loss(**arguments), lenient=lenient)
        return found if weight == 1.0 else replace(found, loss=found.loss * weight)

    def checked(self, value: Any, *, lenient: bool = False) -> Evaluation:
        """What a loss has returned, as a scalar loss and metrics; with ``lenient`` it may have no gradient.

        Raises:
            RunError: It is neither a scalar tensor with a gradient nor a dict that holds one as ``loss``.
        """
        metrics: dict[str, Any] = {}
        log_prob = None
        if not isinstance(value, Tensor) and isinstance(value, Mapping):
            if "loss" not in value:
                raise RunError(f"the loss of {self.name!r} returned a dict without 'loss': {sorted(map(str, value))}")
            metrics = {str(key): _detached(item) for key, item in value.items() if key != "loss"}
            log_prob = value.get(LOG_PROB)
            value = value["loss"]
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise RunError(f"the loss of {self.name!r} returned {found}; it must be a scalar tensor or a dict")
        if not (lenient or value.requires_grad) and torch.is_grad_enabled():
            raise RunError(f"the loss of {self.name!r} depends on no trainable parameter of what it reads")
        return Evaluation(loss=value.reshape(()) if value.dim() else value, metrics=metrics, log_prob=log_prob)


def named_places(module: nn.Module) -> list[tuple[str, dict[str, Any], str]]:
    """Every parameter's name, and where the module holds it: a dict and a key."""
    places = []
    for name, _ in module.named_parameters():
        path, _, key = name.rpartition(".")
        places.append((name, module.get_submodule(path)._parameters, key))
    return places


def trainable(module: nn.Module, names: Collection[str] | None = None) -> Tree:
    """The parameters that are optimised, in the order of ``module.parameters()``; of these those called ``names``."""
    found = dict(module.named_parameters())
    return tuple(found[name] for name in trainable_names(module, names))


def trainable_names(module: nn.Module, names: Collection[str] | None = None) -> list[str]:
    named = module.named_parameters()
    return [name for name, one in named if one.requires_grad and (names is None or name in names)]


def _detached(item: Any) -> Any:
    return item.detach() if isinstance(item, Tensor) else item
