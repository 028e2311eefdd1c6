"""Products of a loss's second derivatives as compiled code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from betty.backends.torch.compiling.backend import Backend, Code, function_graph, short
from betty.backends.torch.compiling.losses import Told, compiled, following
from betty.backends.torch.compiling.seconds import Ask, Form, Found, derivations
from betty.backends.torch.random import replaying
from betty.backends.torch.tree import Tree, norm, scale, subtract

if TYPE_CHECKING:
    from betty.backends.torch.objective import Objective, Sample


class _Caught(Exception):  # noqa: N818 - carries a graph out of a call; nothing is wrong
    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found = found


def _catching(graph: GraphModule, inputs: Sequence[Any]) -> Code:
    """Compile nothing: hand out the graph, and the tensors that it would have run on."""

    def run(*arguments: Any) -> Any:
        raise _Caught(Found(graph, arguments))

    return run


@dataclass(frozen=True, eq=False)
class _Program:
    """A product of one graph, compiled; the graph is held so that no other takes its place in memory."""

    graph: GraphModule
    run: Code


class Products:
    """Compiled products of one problem's loss at the live parameters.

    The first result of every compiled product is compared with that of the eager one.

    Args:
        objective: The loss.
        backend: The name of what compiles.
        told: Told what is not compiled.
    """

    def __init__(self, objective: Objective, backend: str, told: Told) -> None:
        self._objective, self._told = objective, told
        self._backend = Backend(backend, partial(told, "a part of its products"))
        self._scalar = compiled(_scalar(objective.loss), _catching, whole=True)
        self._programs: dict[tuple[Any, ...], _Program] = {}
        self._failed: set[str] = set()

    def __call__(self, ask: Ask, sample: Sample, v: Tree, plain: Callable[[], Tree]) -> Tree | None:
        """``d/d by <grad_at L, v>`` on a micro-batch, evaluated purely; ``None`` where it is not compiled.

        Args:
            ask: Of what, by what.
            sample: The micro-batch and its random state.
            v: The direction.
            plain: The same, evaluated eagerly.
        """
        if ask.kind in self._failed:
            return None
        objective, known = self._objective, len(self._programs)
        try:
            drawing = replaying(sample.random, objective.device, host=objective.host_draws)
            with drawing, objective.holding({}, buffers=True):
                product = self._evaluate(ask, self._graph(sample), v)
            if sample.weight != 1.0:
                product = scale(sample.weight, product)
            if len(self._programs) > known:
                _compare(product, plain(), lowered=objective.autocast is not None)
        except _Failure as failure:
            self._failed.add(ask.kind)
            self._told(f"its products by {ask.kind} mode", str(failure))
            return None
        return product

    def _graph(self, sample: Sample) -> Found:
        """The loss as a graph with the tensors that it reads, once everything that it depends on was checked."""
        objective = self._objective
        try:
            with torch.enable_grad(), objective.casting(), following(host=objective.host_draws):
                self._scalar(**objective.arguments(sample.batch))
        except _Caught as caught:
            return caught.found
        except Exception as error:  # nothing has run: evaluated eagerly, the loss raises what is its own
            raise _Failure(short(error)) from error
        raise _Failure("the loss computes nothing with tensors")

    def _evaluate(self, ask: Ask, found: Found, v: Tree) -> Tree:
        moved, wanted = found.places(ask.at), found.places(ask.by)
        direction = [part for part, place in zip(v, moved, strict=True) if place is not None]
        places = tuple(place for place in wanted if place is not None)
        parts: Iterator[Tensor] = iter(())
        if direction and places:
            form = Form(found.graph, len(found.inputs), tuple(place for place in moved if place is not None), places)
            parts = iter(self._run(ask, form, [*found.inputs, *direction]))
        pairs = zip(ask.by, wanted, strict=True)
        return tuple([torch.zeros_like(leaf) if place is None else next(parts) for leaf, place in pairs])

    def _run(self, ask: Ask, form: Form, inputs: list[Any]) -> Sequence[Tensor]:
        """The product, by the first of its derivations that can be compiled.

        Raises:
            _Failure: None can.
        """
        key, reason = (id(form.graph), ask.kind, form.moved, form.wanted), ""
        with torch.no_grad():
            if key in self._programs:
                return self._programs[key].run(*inputs)  # type: ignore[no-any-return]
            for derive in derivations(ask.kind, form, self._objective):
                graph = function_graph(partial(derive, form, self._objective), len(inputs), len(form.wanted))
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # torch's, of what it tries on its way
                        code = self._backend(graph, inputs)
                    found: Sequence[Tensor] = code(*inputs)
                except Exception as error:  # whatever goes wrong within a compiler, or by its fault
                    reason = reason or short(error)
                else:
                    self._programs[key] = _Program(form.graph, code)
                    return found
        raise _Failure(reason)


class _Failure(Exception):  # noqa: N818 - a reason, not an error
    """Why there is no compiled product."""


def _scalar(loss: Code) -> Code:
    """A loss without its metrics."""

    def evaluate(**arguments: Any) -> Any:
        value = loss(**arguments)
        if not isinstance(value, Tensor) and isinstance(value, Mapping):
            value = value["loss"]
        return value.reshape(())

    return evaluate


def _compare(found: Tree, truth: Tree, *, lowered: bool) -> None:
    """Let a product pass that differs from the eager one by rounding, which compiled code does in another order.

    Raises:
        _Failure: It differs by more.
    """
    length = norm(truth)
    most = 5e-2 if lowered else 1e-7 if truth[0].dtype is torch.float64 else 1e-3
    far = norm(subtract(found, truth)) / length.clamp_min(torch.finfo(length.dtype).tiny)
    if far > most:
        raise _Failure(f"compiled it differs from the eager one by {float(far):.1e}")
