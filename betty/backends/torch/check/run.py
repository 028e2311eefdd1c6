"""The whole check: train a copy, stop at points, measure every method of every edge there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from betty.backends.torch.check.candidates import (
    candidates,
    expected_steps,
    name_of,
    plan_with,
    refusal,
    responses,
    target_of,
)
from betty.backends.torch.check.flags import flags
from betty.backends.torch.check.measure import Bench
from betty.backends.torch.check.points import Finder
from betty.backends.torch.check.recommend import TOLERANCE, recommend
from betty.backends.torch.check.records import Check, EdgeCheck, Flag, Measurement, Row
from betty.backends.torch.check.reference import NoReferenceError, Referee, Reference, compare, first_line
from betty.backends.torch.check.replica import training_copy
from betty.backends.torch.check.windows import Schedule, Window, windows
from betty.backends.torch.errors import RunError
from betty.backends.torch.program import Program
from betty.backends.torch.random import RandomState, replaying
from betty.ir.compile import compile_graph
from betty.ir.diagnostics import BettyError
from betty.ir.graph import Edge, Graph
from betty.ir.methods import Method, preset
from betty.ir.plan import Plan
from betty.ir.quantities import amount

Truth = Literal["auto", "solution", "unrolled"]
LEAST = 300
"""Iterations of a check that is not told how many, if the program itself has as many..."""
PERIODS = 10
"""...or this many steps of the slowest target, if that is more."""
MOST_STEPS = 1000.0
"""Steps of the lower beyond which a response is out of the question in training, and takes long to measure."""
PATIENCE = 5.0
"""Seconds beyond which a method is measured at the first point alone."""
PLAIN = preset("finite_difference")
"""Of all methods the one for which the least is kept; a lower step under it is a plain one."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to check.

    Args:
        iterations: Of training, at most those of the program; ``None`` takes 300 or ten steps of the slowest target.
        points: Points of training at which methods are compared.
        seed: Of the random states in which training runs.
        tolerance: Relative error that is exact enough for a recommendation.
        reference: ``solution`` compares with the derivative of the lower's solution, ``unrolled`` with that of its
            updates since the target's last step, ``auto`` with whichever the edge's own method stands for.
        most_steps: Methods whose response is expected to take more steps of the lower than this are left out.
        methods: What to compare besides the edges' own methods; all that there are, by default.
        progress: Told what is being done.
    """

    iterations: int | None = None
    points: int = 3
    seed: int = 0
    tolerance: float = TOLERANCE
    reference: Truth = "auto"
    most_steps: float = MOST_STEPS
    methods: tuple[Method, ...] | None = None
    progress: Callable[[str], None] = field(default=lambda text: None)


@dataclass(eq=False)
class _Edge:
    """The state of one edge's check between two points."""

    graph: Graph
    edge: Edge
    target: str
    referee: Referee
    plans: dict[Method, Plan] = field(default_factory=dict)
    refused: dict[Method, str] = field(default_factory=dict)
    found: dict[Method, list[Measurement]] = field(default_factory=dict)
    slow: set[Method] = field(default_factory=set)
    flags: dict[str, Flag] = field(default_factory=dict)
    points: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> Method:
        assert self.edge.method is not None
        return self.edge.method

    def prepare(self, program: Program, methods: Iterable[Method], most: float) -> None:
        """A plan for every method that may run."""
        lower = self.edge.lower
        for method in methods:
            self.found[method] = []
            try:
                plan = plan_with(self.graph, self.edge, method)
            except BettyError as error:
                self.refused[method] = error.diagnostics[0].message
                continue
            steps = max(item.method.steps or 1 for item in responses(plan, self.target, self.edge))
            cost = expected_steps(plan, self.graph, self.target, self.edge)
            if why := refusal(method, self.graph.problem(lower), program[lower], steps):
                self.refused[method] = why
            elif cost > most and method != self.chosen:
                self.refused[method] = f"left out: it would take about {amount(round(cost))} steps of {lower}"
            else:
                self.plans[method] = plan

    def span(self, period: int) -> int:
        """Iterations that a window takes: all updates that any method or the reference looks back on."""
        lower = self.graph.problem(self.edge.lower)
        one = (lower.period or 1) * lower.accumulation
        steps = [
            item.method.steps or 1 for plan in self.plans.values() for item in responses(plan, self.target, self.edge)
        ]
        needed = max(steps, default=1) * one
        return max(1, -(-needed // period)) * period

    def visit(self, window: Window, progress: Callable[[str], None]) -> None:
        plain = plan_with(self.graph, self.edge, PLAIN)
        at, _ = window.replay(plain)
        try:
            reference = self.referee.reference(window, at)
        except NoReferenceError as error:
            self.notes.append(f"no reference at iteration {window.iteration}: {error}")
            return
        self.points.append(window.iteration)
        self.texts.append(reference.text)
        self.notes.extend(reference.notes)
        bench = Bench(window, self.edge.name, self.edge.lower, plain)
        for method, plan in self.plans.items():
            if method not in self.refused and method not in self.slow:
                progress(f"{self.edge.name}, iteration {window.iteration}: {name_of(method)}")
                self._measure(method, plan, bench, reference)
        progress(f"{self.edge.name}, iteration {window.iteration}: flags")
        self._flag(window, at, reference)

    def _measure(self, method: Method, plan: Plan, bench: Bench, reference: Reference) -> None:
        start = time.perf_counter()
        try:
            measured = bench.measure(plan, looks_back=not method.implicit, memory=not self.found[method])
        except Exception as error:  # what a user's loss, or torch, makes of a method is a finding, not a failure
            self.refused[method] = first_line(error)
            return
        if time.perf_counter() - start > PATIENCE:
            self.slow.add(method)
        cosine, error_ = compare(measured.gradient, reference.gradient)
        self.found[method].append(
            Measurement(
                iteration=bench.window.iteration,
                cosine=cosine,
                error=error_,
                steps=measured.seconds / measured.step_seconds,
                seconds=measured.seconds,
                bytes=measured.bytes,
            )
        )

    def _flag(self, window: Window, at: Program, reference: Reference) -> None:
        """Look for trouble here; of each kind the worst point is kept."""
        try:
            solution = self.solution.reference(window, at) if self.referee.unrolled else reference
        except NoReferenceError:
            solution = None
        point = Finder(self.edge, window, at, solution).point(reference.dtype)
        for found in flags(point):
            if isinstance(found, str):
                self.notes.append(found)
                continue
            worst = self.flags.get(found.code)
            if worst is None or abs(found.value) > abs(worst.value):
                self.flags[found.code] = found

    @property
    def solution(self) -> Referee:
        """The referee whose reference is about the lower's solution, whatever the edge's own is about."""
        return replace(self.referee, unrolled=False)

    def result(self, tolerance: float) -> EdgeCheck:
        rows = tuple(
            Row(
                method=method,
                name=name_of(method),
                chosen=method == self.chosen,
                measurements=tuple(found),
                reason=self.refused.get(method, "" if found else "there is nothing to compare it with"),
            )
            for method, found in self.found.items()
        )
        return EdgeCheck(
            upper=self.edge.upper,
            lower=self.edge.lower,
            target=self.target,
            reference=", or ".join(dict.fromkeys(self.texts)) or "none",
            points=tuple(self.points),
            rows=rows,
            flags=tuple(self.flags.values()),
            recommendation=recommend(rows, tolerance),
            notes=tuple(dict.fromkeys(self.notes)),
        )


def check_program(graph: Graph, program: Program, request: Request | None = None) -> Check:
    """Compare every method with an exact reference on every edge that a hypergradient passes over.

    Args:
        graph: The program, methods resolved; its facts say what a trace found.
        program: The live program; it is left as it is, a copy is trained from where it stands.
        request: What to check.

    Raises:
        RunError: The data is a live generator, which cannot be copied; or processes share parameters.
    """
    if any(problem.objective.sharded for problem in program.problems.values()):
        raise RunError(
            "a program whose parameters are spread over processes cannot be checked: check it in one process"
        )
    asked, start = request or Request(), time.perf_counter()
    with replaying(None, program.device), _quiet():
        return _check(graph, training_copy(program), asked, start)


@contextmanager
def _quiet() -> Iterator[None]:
    """What solves report in a log is part of the table here."""
    log = logging.getLogger("betty")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _check(graph: Graph, program: Program, asked: Request, start: float) -> Check:
    plan = compile_graph(graph).plan
    edges = _edges(graph, program, plan, asked)
    periods = {step.problem: step.period for step in plan}
    spans: dict[str, int] = {}
    for one in edges:
        spans[one.target] = max(spans.get(one.target, 1), one.span(periods[one.target]))
    iterations = asked.iterations or _iterations(graph, [periods[target] for target in spans])
    schedule = Schedule.spread(plan, list(spans), spans, iterations, asked.points)
    random = RandomState.seeded(asked.seed, program.device)
    for window in windows(plan, program, schedule, random):
        for one in edges:
            if one.target == window.target:
                one.visit(window, asked.progress)
    checked = {one.edge.name for one in edges}
    return Check(
        program=graph.name,
        iterations=schedule.iterations,
        seed=asked.seed,
        tolerance=asked.tolerance,
        edges=tuple(one.result(asked.tolerance) for one in edges),
        silent=tuple(edge.name for edge in graph.edges if edge.name not in checked),
        seconds=time.perf_counter() - start,
    )


def _edges(graph: Graph, program: Program, plan: Plan, asked: Request) -> list[_Edge]:
    found = []
    for edge in graph.edges:
        target = target_of(plan, edge)
        if target is None or edge.method is None:
            continue
        unrolled = asked.reference == "unrolled" or (asked.reference == "auto" and edge.method.trajectory)
        one = _Edge(graph, edge, target, Referee(graph, edge, target, unrolled))
        methods = candidates(edge.method)
        if asked.methods is not None:
            methods = [edge.method, *(method for method in asked.methods if method != edge.method)]
        one.prepare(program, methods, asked.most_steps)
        found.append(one)
    return found


def _iterations(graph: Graph, periods: list[int]) -> int:
    return min(graph.settings.iterations, max(LEAST, PERIODS * max(periods, default=1)))
