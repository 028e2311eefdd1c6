"""Live programs put together by hand, without any spec: problems and edges in, graph and executor out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from betty.backends.torch.executor import Executor
from betty.backends.torch.objective import Objective
from betty.backends.torch.program import LiveProblem, Program
from betty.backends.torch.stream import Loading, Stream
from betty.backends.torch.trajectory.tuning import Tuned
from betty.ir.compile import compile_graph
from betty.ir.graph import Edge, Graph, Problem
from betty.ir.methods import Method
from betty.ir.plan import Plan
from betty.ir.records import Flow

CPU = torch.device("cpu")
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def plain_sgd(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One problem of a program put together by hand.

    Args:
        name: The problem's name.
        module: Owns its parameters.
        loss: As a user writes it: ``batch`` if it takes one, and the problems that it reads, by name.
        reads: Names that the loss reads; taken from its signature where it is ``None``.
        optimizer: Makes the optimiser; ``None`` leaves the problem without one.
        scheduler: Makes the scheduler of that optimiser.
        batches: Micro-batches, given out in this order and then again from the start.
        unroll: Updates between two steps of an upper.
        accumulation: Micro-batches an update.
        clipping: Largest norm of an update's gradient.
        tuned: Hyperparameters of the optimiser that are parameters of other problems.
        starts_from: The problem at whose parameters this one begins anew.
    """

    name: str
    module: nn.Module
    loss: Callable[..., Any]
    reads: tuple[str, ...] | None = None
    optimizer: MakeOptimizer | None = plain_sgd
    scheduler: Callable[[Optimizer], Any] | None = None
    batches: Sequence[Any] | None = None
    unroll: int = 1
    accumulation: int = 1
    clipping: float | None = None
    tuned: tuple[Tuned, ...] = ()
    starts_from: str = ""

    def names(self) -> tuple[str, ...]:
        if self.reads is not None:
            return self.reads
        return tuple(name for name in inspect.signature(self.loss).parameters if name != "batch")


@dataclass(frozen=True)
class Built:
    """A program ready to step."""

    graph: Graph
    plan: Plan
    program: Program
    executor: Executor

    def optimizer(self, name: str) -> Optimizer:
        found = self.program[name].optimizer
        assert found is not None
        return found

    def follow(self, script: Iterable[str]) -> None:
        """Step the problems named, one after another."""
        for name in script:
            self.executor.step(name)

    def everything(self) -> Iterator[Tensor]:
        """Every parameter and buffer of every problem."""
        for problem in self.program.problems.values():
            yield from problem.module.parameters()
            yield from problem.module.buffers()


def edge(upper: str, lower: str, method: Method | None = None, flow: Flow = Flow.BOTH) -> Edge:
    return Edge(upper=upper, lower=lower, flow=flow, method=method)


def assemble(parts: Sequence[Part], edges: Sequence[Edge]) -> Built:
    """Compile the graph of ``parts`` and ``edges``, and make the executor of its plan."""
    modules = {part.name: part.module for part in parts}
    optimizers = {part.name: part.optimizer(_trainable(part.module)) if part.optimizer else None for part in parts}
    problems = tuple(_declared(part, optimizers[part.name]) for part in parts)
    compiled = compile_graph(Graph("toy", problems, tuple(edges)))
    live = {part.name: _live(part, modules, optimizers[part.name]) for part in parts}
    program = Program(problems=live, device=CPU)
    return Built(compiled.graph, compiled.plan, program, Executor(compiled.plan, program))


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _declared(part: Part, optimizer: Optimizer | None) -> Problem:
    return Problem(
        name=part.name,
        reads=part.names(),
        update_reads=tuple(
            dict.fromkeys([one.problem for one in part.tuned] + [part.starts_from] * bool(part.starts_from))
        ),
        optimizer=type(optimizer).__name__ if optimizer else "",
        unroll=part.unroll,
        accumulation=part.accumulation,
        gradient_clipping=part.clipping,
    )


def _live(part: Part, modules: dict[str, nn.Module], optimizer: Optimizer | None) -> LiveProblem:
    takes_batch = "batch" in inspect.signature(part.loss).parameters
    read = {name: modules[name] for name in part.names()}
    return LiveProblem(
        name=part.name,
        module=part.module,
        objective=Objective(part.name, part.loss, read, takes_batch=takes_batch, device=CPU),
        optimizer=optimizer,
        scheduler=part.scheduler(optimizer) if part.scheduler and optimizer else None,
        stream=_stream(part),
        gradient_clipping=part.clipping,
        tuned=part.tuned,
        starts_from=part.starts_from,
    )


def _stream(part: Part) -> Stream | None:
    batches = part.batches
    return None if batches is None else Stream(part.name, lambda: list(batches), Loading(), CPU)
