"""A program that was written as a spec: read, built and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property

from betty.backends.torch.compiling import compile_program
from betty.backends.torch.executor import Executor
from betty.backends.torch.finite import OnNonfinite
from betty.backends.torch.random import RandomState, derived_seed, replaying
from betty.backends.torch.sharding import shard_modules
from betty.backends.torch.trace import trace
from betty.backends.torch.trainer import EarlyStopping
from betty.backends.torch.zero import ZERO, share_optimizers
from betty.build import build, build_validation, check_trajectories
from betty.front import Running
from betty.ir.applicable import diagnose_methods
from betty.ir.compile import Compiled, compile_graph
from betty.ir.graph import Graph
from betty.ir.passes.strategy import fitting
from betty.ir.sharded import FSDP
from betty.ir.valuations import valuation
from betty.spec.dump import to_yaml
from betty.spec.frontend import Program as Parsed
from betty.spec.frontend import compile_source
from betty.spec.load import Source
from betty.spec.models import Spec
from betty.spec.valuing import split
from betty.weighted import Weighted


class SpecFront:
    """The :class:`betty.front.Front` of a spec; see :class:`betty.Engine` for the arguments.

    Raises:
        SpecError: Everything wrong with the spec and the program, in one report.
        RunError: The device is not on this machine.
    """

    iterate: Callable[[], None] | None = None

    def __init__(self, spec: Source, overrides: Sequence[str], trust: Iterable[str]) -> None:
        self._make(compile_source(spec, overrides, trust))

    @classmethod
    def made(cls, found: Parsed) -> SpecFront:
        """The front of a spec that has been imported."""
        front = cls.__new__(cls)
        front._make(found)
        return front

    def _make(self, found: Parsed) -> None:
        assert found.resolved is not None
        self._document = found.document
        self._found, self._parts = found, split(found)
        trained = self._parts.training if self._parts is not None else found
        assert trained.resolved is not None
        self.program = build(trained.document, trained.graph, trained.resolved)
        self.compiled = self._compile(found.graph)
        if self.compiled.graph.settings.strategy == FSDP:
            shard_modules(self.program, {name: one.shard_parameters for name, one in self.spec.problems.items()})
        self.executor = Executor(self.compiled.plan, self.program)
        if self.compiled.graph.settings.strategy == ZERO:
            share_optimizers(self.program, self.compiled.plan)
        compile_program(self.compiled.plan, self.program)
        self.measures, self.early_stopping = build_validation(
            self.spec.engine, trained.graph, trained.resolved, self.program.processes
        )

    @property
    def weighted(self) -> Weighted | None:
        """The examples that the spec values; ``None`` where it only trains."""
        edge = self.compiled.graph.valued
        if self._parts is None or edge is None or edge.valuation is None:
            return None
        return Weighted(self._found, self._parts, self.program, edge.valuation)

    @property
    def spec(self) -> Spec:
        """The spec as it is run, overrides included."""
        return self._document.spec

    @cached_property
    def running(self) -> Running:
        engine = self.spec.engine
        best = engine.checkpoint.best if engine.checkpoint else None
        return Running(
            name=self.spec.name,
            iterations=engine.iterations,
            seed=engine.seed,
            random=RandomState.seeded(self._own_seed, self.program.device),
            record_every=engine.log.every,
            tensorboard=engine.log.tensorboard,
            checkpoint_every=engine.checkpoint.every if engine.checkpoint else 0,
            checkpoint_keep=engine.checkpoint.keep if engine.checkpoint else 0,
            checkpoint_best=(
                EarlyStopping(metric=best.metric, mode=best.mode, who="checkpoint.best")
                if best
                else self.early_stopping
            ),
            on_nonfinite=OnNonfinite(action=engine.on_nonfinite.action, limit=engine.on_nonfinite.limit),
        )

    @property
    def _own_seed(self) -> int:
        """Of the draws of this process; those of the first are a single process's."""
        processes, seed = self.program.processes, self.spec.engine.seed
        return derived_seed(seed, "process", str(processes.rank)) if processes and processes.rank else seed

    def written(self) -> str:
        return to_yaml(self.spec)

    def _spread(self, traced: Graph) -> Graph:
        """The graph with the strategy of several processes, where the spec leaves it open."""
        processes = self.program.processes
        if self.spec.engine.strategy != "auto" or processes is None:
            return traced
        strategy, reason = fitting(traced, processes.count)
        return replace(traced, settings=replace(traced.settings, strategy=strategy, reason=reason))

    def _compile(self, declared: Graph) -> Compiled:
        device = self.program.device
        # Loaders without a generator of their own draw their first order here, from the global one.
        with replaying(RandomState.seeded(self.spec.engine.seed, device), device):
            facts = trace(
                self.program,
                answering=_answering(declared),
                solving=_solving(declared),
                memory=self.spec.engine.memory is not None,
            )
            declared = self._counted(declared)
        traced = replace(declared, settings=replace(declared.settings, device=str(device)))
        traced = self._spread(traced.map(problem=lambda one: replace(one, facts=facts.get(one.name))))
        if wrong := [*check_trajectories(traced, self.program), *diagnose_methods(traced)]:
            raise self._document.report(wrong)
        return compile_graph(traced)

    def _counted(self, declared: Graph) -> Graph:
        """With how many examples there are to value, and the shapes of their gradients."""
        if self._parts is None:
            return declared
        counted = Weighted(self._found, self._parts, self.program, self._parts.method or valuation("logra")).counted
        return declared.map(problem=lambda one: replace(one, weights=counted(one.weights)) if one.weights else one)


def _answering(graph: Graph) -> set[str]:
    """Lowers whose responses may be evaluated in forward mode."""
    edges = graph.trained.edges
    return {edge.lower for edge in edges if edge.flow.down and (not edge.method or edge.method.forward)}


def _solving(graph: Graph) -> set[str]:
    """Lowers of whose gradients graphs may be kept."""
    edges = graph.trained.edges
    return {edge.lower for edge in edges if edge.flow.down and (not edge.method or edge.method.second_order)}
