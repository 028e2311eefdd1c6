"""From problems and dependencies to the compiler's graph and a live program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from betty.backends.torch.objective import Objective
from betty.backends.torch.processes import Processes
from betty.backends.torch.program import LiveProblem, Program
from betty.backends.torch.random import replaying
from betty.backends.torch.recompute import recompute
from betty.backends.torch.trace import counted, facts
from betty.build import AUTOCAST, check_trajectories
from betty.classes.dependencies import Dependencies
from betty.classes.effects import Effects
from betty.classes.hooks import UpdateHooks
from betty.classes.loss import TrainingStep
from betty.classes.parts import names_of, optimized
from betty.classes.reading import first_order_diagnostics
from betty.classes.stream import BatchStream
from betty.configs import EngineConfig
from betty.ir.applicable import diagnose_methods
from betty.ir.compile import Compiled, compile_graph
from betty.ir.diagnostics import Diagnostic, GraphError
from betty.ir.graph import SINGLE, Edge, Graph, Settings
from betty.ir.graph import Problem as Node
from betty.ir.passes.check import diagnose
from betty.ir.records import Facts
from betty.problems.problem import Problem

CUSTOM = "custom_optimizer_step"
KEPT = ("count", "version", "accumulated", "memories", "seen", "skipped", "skipped_in_a_row")
"""What of a live problem goes on when a part of it is replaced."""


@dataclass(frozen=True, eq=False)
class Assembler:
    """Makes graph and program of configured problems.

    Args:
        problems: By name, each with its module, optimiser and data.
        dependencies: Who reads whom.
        config: Of the engine.
        env: The environment, or ``None``.
        device: Where to run.
        effects: Takes back what extra evaluations do to the program's objects.
        processes: That train the program together, if there are several.
    """

    problems: Mapping[str, Problem]
    dependencies: Dependencies
    config: EngineConfig
    env: Any
    device: torch.device
    effects: Effects
    processes: Processes | None = None

    def graph(self) -> Graph:
        """The graph as it is declared.

        Raises:
            GraphError: Everything wrong with it.
        """
        settings = Settings(
            iterations=max(1, self.config.train_iters),
            device=str(self.device),
            roll_back=self.config.roll_back,
            strategy=SINGLE if self.processes is None else "distributed",
            memory=self.config.memory or None,
            compile="inductor" if self.config.compile else "",
        )
        nodes = tuple(_node(problem) for problem in self.problems.values())
        graph = Graph(self.config.name, nodes, self.dependencies.edges(self.problems), settings)
        if wrong := [*first_order_diagnostics(graph, self.problems), *_in_own_words(diagnose(graph), graph)]:
            raise GraphError(wrong)
        return graph

    def program(self, previous: Program | None = None) -> Program:
        """The live program; counters go on from ``previous``."""
        trained = {name: names_of(one, "trainable_parameters") for name, one in self.problems.items()}
        modules = {name: problem.module for name, problem in self.problems.items()}
        live = {}
        for name, problem in self.problems.items():
            if problem.config.activation_checkpointing:
                recompute(problem.module)
            optimized(problem, trained[name])
            objective = self._objective(problem, modules, trained)
            live[name] = self._live(problem, objective, trained[name], previous)
        return Program(problems=live, device=self.device, processes=self.processes)

    def _objective(
        self, problem: Problem, modules: Mapping[str, Any], trained: Mapping[str, tuple[str, ...] | None]
    ) -> Objective:
        objective = Objective(
            problem.name,
            TrainingStep(problem.name, self.problems, self.env),
            modules,
            takes_batch=True,
            device=self.device,
            autocast=AUTOCAST[problem.config.precision],
            trained={name: names for name, names in trained.items() if names is not None},
        )
        objective.undone = self.effects.undone
        objective.scaler = problem.scaler
        return objective

    def _live(
        self, problem: Problem, objective: Objective, trained: tuple[str, ...] | None, previous: Program | None
    ) -> LiveProblem:
        dtype = torch.float64 if problem.config.precision == "fp64" else None
        answers = names_of(problem, "meta_trainable_parameters")
        live = LiveProblem(
            name=problem.name,
            module=problem.module,
            objective=objective,
            optimizer=problem.optimizer,
            scheduler=problem.scheduler,
            stream=BatchStream(problem, self.device, dtype, self.effects),
            gradient_clipping=problem.config.gradient_clipping or None,
            trained=trained,
            answers=None if answers == trained else answers,
            hooks=UpdateHooks.of(problem),
            scaler=problem.scaler,
        )
        if previous is not None:
            for name in KEPT:
                setattr(live, name, getattr(previous[problem.name], name))
        return live

    def compile(self, graph: Graph, program: Program) -> Compiled:
        """Facts, methods and plan.

        Raises:
            GraphError: A method cannot answer for a problem.
        """
        found = {name: self._facts(graph, program, name) for name in self.problems}
        traced = graph.map(problem=lambda one: replace(one, facts=found[one.name]))
        wrong = [
            *check_trajectories(traced, program),
            *diagnose_methods(traced),
            *_blind(traced, program),
        ]
        if wrong:
            raise GraphError(_in_own_words(wrong, traced))
        return compile_graph(traced)

    def _facts(self, graph: Graph, program: Program, name: str) -> Facts:
        live = program[name]
        stream = live.stream
        assert isinstance(stream, BatchStream)
        if stream.own:
            return counted(live, "its batches come from get_batch, which is not called before the first step")
        down = [edge for edge in graph.edges if edge.flow.down]
        answering = {edge.lower for edge in down if not edge.method or edge.method.forward}
        solving = {edge.lower for edge in down if not edge.method or edge.method.second_order}
        with replaying(None, self.device):
            batch = stream.peek()
        return facts(
            program,
            live,
            batch,
            forward=name in answering,
            graph=name in solving,
            memory=self.config.memory is not None,
        )


def _node(problem: Problem) -> Node:
    config, optimizer = problem.config, problem.optimizer
    moved = CUSTOM if problem.is_implemented(CUSTOM) else type(optimizer).__name__ if optimizer is not None else ""
    return Node(
        name=problem.name,
        loss=f"{type(problem).__name__}.training_step",
        optimizer=moved,
        unroll=config.unroll_steps,
        accumulation=config.gradient_accumulation,
        warm_up=config.warmup_steps,
        precision=config.precision,
        gradient_clipping=config.gradient_clipping or None,
        recomputes=config.activation_checkpointing,
    )


def _blind(graph: Graph, program: Program) -> list[Diagnostic]:
    """Methods that differentiate or adapt to updates that a program makes, or changes, itself."""
    found = []
    for index, edge in enumerate(graph.edges):
        hooks = program[edge.lower].hooks
        if hooks is None or edge.method is None:
            continue
        hook = CUSTOM if hooks.replaces else "grad_callback" if hooks.edits and edge.method.sees_updates else ""
        if hook and (edge.method.sees_updates or edge.method.adapts):
            found.append(
                Diagnostic(
                    code="unseen-update",
                    field=("edges", index, "method"),
                    message=f"{edge.method.solver.name!r} looks at the updates of {edge.lower!r}, "
                    f"which its {hook} makes in a way that cannot be seen",
                    expected="a method that looks at the loss alone, such as darts, neumann or cg",
                    hint=f"Config(type='darts') for {edge.lower}",
                )
            )
    return found


def _in_own_words(found: list[Diagnostic], graph: Graph) -> list[Diagnostic]:
    """Diagnostics of edges, which a class program does not write, as those of its dependencies."""
    return [_translated(one, graph.edges) for one in found]


def _translated(one: Diagnostic, edges: tuple[Edge, ...]) -> Diagnostic:
    if one.field[:1] != ("edges",) or len(one.field) < 2:
        return one
    edge = edges[int(one.field[1])]
    if one.field[-1] == "method":
        return replace(one, field=(edge.lower, "config", "type"), hint=one.hint.replace("method: ", "type="))
    hint = f'dependencies["l2u"]: {{{edge.lower}: [{edge.upper}]}}' if one.hint == "flow: both" else one.hint
    expected = one.expected.replace("flow: both, or up flows that lead", "l2u entries that lead")
    return replace(one, field=("dependencies",), hint=hint, expected=expected)
