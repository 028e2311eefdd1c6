"""What a hypergradient is compared with: the exact one, in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from betty.backends.torch.check.candidates import plan_with, refusal, responses
from betty.backends.torch.check.replica import replica
from betty.backends.torch.check.windows import Window, hand
from betty.backends.torch.executor import Executor
from betty.backends.torch.objective import Sample
from betty.backends.torch.program import Program
from betty.backends.torch.tree import flatten
from betty.ir.diagnostics import BettyError
from betty.ir.graph import Edge, Graph
from betty.ir.methods import INVERSES, PRODUCTS, TRAJECTORIES, Method, complete
from betty.ir.plan import Plan
from betty.ir.quantities import plural

DENSE = 2000
"""Parameters of a lower up to which its Hessian is formed."""
LONG = 2000
"""Most iterations of an iterative reference."""
RESIDUAL = 1e-10
"""Relative residual at which it stops."""
SLOPPY = 1e-4
"""Relative residual beyond which a reader is told."""
AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far, relatively, a loss may differ between the precisions before their draws are taken to differ."""
LONGEST = 200
"""Characters of a reason."""
LOOSE = 5e-2
"""The same for lower precisions."""


@dataclass(frozen=True, eq=False)
class Reference:
    """An exact hypergradient.

    Args:
        gradient: As one vector.
        text: What it is.
        plan: The plan that gives it.
        program: The program at the point, in the precision of the reference; not to be changed.
        dtype: That precision; ``None`` for the program's own.
        notes: What a reader should know of it.
    """

    gradient: Tensor
    text: str
    plan: Plan
    program: Program
    dtype: torch.dtype | None
    notes: tuple[str, ...] = ()


class NoReferenceError(Exception):
    """Nothing exact can be computed for this edge; the message says why."""


@dataclass(frozen=True, eq=False)
class Referee:
    """Computes references for one edge.

    Args:
        graph: The program, methods resolved.
        edge: The edge whose method is replaced by an exact one; all others stay.
        target: The problem whose hypergradient it is.
        unrolled: Whether the reference is the derivative of the lower's updates, else of its solution.
    """

    graph: Graph
    edge: Edge
    target: str
    unrolled: bool

    def reference(self, window: Window, at: Program) -> Reference:
        """The reference at the end of ``window``; ``at`` is the program there, in its own precision.

        Raises:
            NoReferenceError: No exact method runs here.
        """
        tried = []
        for method, text in self._methods(at):
            for dtype in (torch.float64, None):
                try:
                    return self._evaluate(method, text, window, at, dtype)
                except Exception as error:  # whatever a user's loss makes of another precision, or torch of a product
                    tried.append(f"{text}: {first_line(error)}")
        raise NoReferenceError("; ".join(dict.fromkeys(tried)))

    def _methods(self, at: Program) -> Iterator[tuple[Method, str]]:
        """Exact methods, the preferred one first."""
        live = at[self.edge.lower]
        if self.unrolled:
            for method, steps in self._unrolled():
                if not (why := refusal(method, self.graph.problem(live.name), live, steps)):
                    yield method, f"derivative of the last {plural(steps, 'update')} of {live.name}, unrolled"
                    return
                raise NoReferenceError(why)
        size = sum(leaf.numel() for leaf in live.parameters)
        products = [name for name, declared in PRODUCTS.items() if declared.second_order]
        inexact = [name for name in PRODUCTS if name not in products]
        for product in (*products, *inexact):
            name, options = ("dense", {"limit": DENSE}) if size <= DENSE else ("minres", self._long(size))
            solver = complete(name, INVERSES[name], options)
            close = {"epsilon": 1e-5} if product in inexact else {}
            called = "solve with the whole Hessian" if name == "dense" else "long minres"
            text = f"{called} of {live.name}" + (" by finite differences" if close else "")
            yield Method(solver=solver, product=complete(product, PRODUCTS[product], close)), text

    def _unrolled(self) -> Iterator[tuple[Method, int]]:
        """All updates since the target's last step, or as many as the chosen method looks back on."""
        chosen = self.edge.method
        wanted = chosen.steps or 0 if chosen is not None and chosen.trajectory else 0
        method = Method(solver=complete("unrolled", TRAJECTORIES["unrolled"], {}))
        (item, *_) = responses(plan_with(self.graph, self.edge, method), self.target, self.edge)
        steps = max(item.method.steps or 1, wanted)
        yield method.with_steps(steps), steps

    def _long(self, size: int) -> dict[str, float | int]:
        return {"iterations": min(2 * size, LONG), "tolerance": RESIDUAL}

    def _evaluate(self, method: Method, text: str, window: Window, at: Program, dtype: torch.dtype | None) -> Reference:
        plan = plan_with(self.graph, self.edge, method)
        if looks_back(plan, self.target):
            program, executor = window.replay(plan, dtype)
        else:
            program = replica(at, dtype)
            executor = Executor(plan, program)
        outcome = window.hypergradient(program, executor)
        gradient = flatten(outcome.gradient).detach().double()
        if not bool(torch.isfinite(gradient).all()):
            raise NoReferenceError("it is not finite")
        if dtype is not None and not self._same_draws(window, at, dtype):
            found = self._evaluate(method, text, window, at, None)
            return replace(found, notes=(*found.notes[1:], DRAWS))
        left = [float(value) for key, value in outcome.metrics.items() if key.endswith(".residual")]
        notes = [OWN] if dtype is None and at_precision(at, self.target) != torch.float64 else []
        if method.implicit and left and max(left) > SLOPPY:
            notes.append(f"the reference is inexact: its solve ends with a relative residual of {max(left):.1e}")
        return Reference(gradient, text, plan, program, dtype, tuple(notes))

    def _same_draws(self, window: Window, at: Program, dtype: torch.dtype) -> bool:
        """Whether the losses of target and lower are the same numbers in both precisions, up to rounding.

        They are not where a loss draws noise in the precision of its parameters.
        """
        own, exact, lower = at, replica(at, dtype), self.edge.lower
        pairs = [(window.target, _drawn(window, own), _drawn(window, exact))]
        pairs += [(lower, *both) for both in zip(own[lower].kept, exact[lower].kept, strict=True)]
        return all(
            _same(_loss(own, name, one), _loss(exact, name, other), at_precision(at, name))
            for name, one, other in pairs
        )


def looks_back(plan: Plan, target: str) -> bool:
    """Whether anything in the target's hypergradient depends on updates before the last one."""
    return any(not item.method.implicit for item in plan.step(target).responses)


OWN = "the reference is in the program's own precision, as its losses fail in double precision"
DRAWS = "the reference is in the program's own precision, as its losses draw differently in double precision"


def at_precision(program: Program, name: str) -> torch.dtype:
    return next((leaf.dtype for leaf in program[name].parameters), torch.float32)


def _same(own: float, exact: float, dtype: torch.dtype) -> bool:
    return abs(own - exact) <= AGREEMENT.get(dtype, LOOSE) * (1e-3 + abs(own))


def _loss(program: Program, name: str, sample: Sample) -> float:
    with torch.no_grad():
        return float(program[name].objective.pure(sample, {}))


def _drawn(window: Window, program: Program) -> Sample:
    """What the target draws in its step."""
    hand(program, window.last)
    stream = program[window.target].stream
    return Sample(stream.peek() if stream is not None else None, window.last.random)


def first_line(error: BaseException) -> str:
    """What an error says in its first line, with its kind where that is not one of ours."""
    if isinstance(error, BettyError):
        return error.diagnostics[0].message
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return said if len(said) <= LONGEST else said[: LONGEST - 1].rstrip() + "…"


def compare(gradient: Tensor, reference: Tensor) -> tuple[float, float]:
    """Cosine and relative error; a cosine that does not exist is not a number, an error that does not infinite."""
    if not bool(torch.isfinite(gradient).all()):
        return float("nan"), float("inf")
    length, own = float(reference.norm()), float(gradient.norm())
    distance = float((gradient - reference).norm())
    if length == 0.0:
        return float("nan"), 0.0 if own == 0.0 else float("inf")
    if own == 0.0:
        return float("nan"), 1.0
    return max(-1.0, min(1.0, float(gradient @ reference) / (own * length))), distance / length
