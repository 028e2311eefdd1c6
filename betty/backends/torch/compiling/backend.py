"""Graphs of tensor operations as code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from betty.backends.torch.errors import RunError

Told = Callable[[str], None]
"""Told the reason why something is not compiled."""
Code = Callable[..., Any]


class Backend:
    """Compiles what torch.compile has made of a loss, as ``inductor``, ``aot_eager`` or ``eager`` does.

    Random numbers are drawn as eager code draws them, in the same order from the same generators. A graph that
    inductor fails on runs operation by operation.

    Args:
        name: What compiles.
        told: Told why a graph was not compiled.
        began: Told whenever a compiled graph begins to run.
    """

    def __init__(self, name: str, told: Told, began: Callable[[], None] | None = None) -> None:
        self.name, self._told, self._began = name, told, began

    def __call__(self, graph: GraphModule, inputs: Sequence[Any]) -> Code:
        code, began = self.compile(graph, inputs), self._began
        if began is None:
            return code

        def run(*arguments: Any) -> Any:
            began()
            return code(*arguments)

        return run

    def compile(self, graph: GraphModule, inputs: Sequence[Any]) -> Code:
        if self.name == "eager":
            return graph.forward
        if self.name == "aot_eager":
            from torch._dynamo.backends.debugging import aot_eager

            return aot_eager(graph, list(inputs))
        from torch._inductor.compile_fx import compile_fx

        found: Any = compile_fx(
            graph, list(inputs), inner_compile=self._inner, config_patches={"fallback_random": True}
        )
        return found  # type: ignore[no-any-return]

    def _inner(self, graph: GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        """One of the graphs that a loss and its backward pass have become."""
        from torch._functorch._aot_autograd.utils import make_boxed_func
        from torch._inductor.compile_fx import compile_fx_inner

        try:
            return compile_fx_inner(graph, inputs, **options)
        except Exception as error:  # whatever goes wrong within a compiler
            self._told(short(error))
            return make_boxed_func(graph.forward)


def function_graph(function: Code, inputs: int, outputs: int) -> GraphModule:
    """A graph that calls a function of so many tensors which returns so many; the compiler looks into it."""

    def whole(*tensors: Any) -> Any:  # a node wants a function with a name
        return function(*tensors)

    graph = Graph()
    places = tuple(graph.placeholder(f"input_{index}") for index in range(inputs))
    called = graph.call_function(whole, places)
    found: tuple[Node, ...] = tuple(graph.call_function(_part, (called, index)) for index in range(outputs))
    graph.output(found)
    return GraphModule(torch.nn.Module(), graph)


def _part(found: Sequence[Tensor], index: int) -> Tensor:
    return found[index]


def check_compiler(name: str, device: torch.device) -> None:
    """Whether there is what inductor needs on a CPU.

    Raises:
        RunError: There is no C++ compiler.
    """
    if name != "inductor" or device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:  # torch has a class of its own for it in some versions
        raise RunError("there is no C++ compiler on this machine (g++ or clang++; CXX names another)") from None


def short(error: BaseException) -> str:
    """The first line of an error that says something."""
    cause = getattr(error, "inner_exception", None) or error
    lines = [line.strip() for line in str(cause).splitlines()]
    text = next((line for line in lines if line), "")
    return f"{type(cause).__name__}: {text}"[:MOST] if text else type(cause).__name__


MOST = 160
"""Letters of a reason."""
