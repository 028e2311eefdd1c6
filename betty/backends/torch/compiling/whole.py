"""What of a program is compiled, and what is not and why."""

from __future__ import annotations

import logging
from collections.abc import Container

from betty.backends.torch.compiling.backend import check_compiler
from betty.backends.torch.compiling.losses import CompiledLoss
from betty.backends.torch.compiling.products import Products
from betty.backends.torch.errors import RunError
from betty.backends.torch.program import LiveProblem, Program
from betty.ir.methods import PRODUCTS
from betty.ir.plan import Plan, Update

log = logging.getLogger("betty")


class Teller:
    """Warns once of each thing of a problem that is not compiled."""

    def __init__(self, problem: str) -> None:
        self._problem = problem
        self._told: set[str] = set()

    def __call__(self, what: str, reason: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("engine.compile: %r: %s runs eagerly: %s", self._problem, what, reason)


def compile_program(plan: Plan, program: Program) -> None:
    """Compile the losses of a program and the products of its methods, if the plan says so.

    Nothing is compiled before it runs for the first time.
    """
    if not plan.compile:
        return
    try:
        check_compiler(plan.compile, program.device)
    except RunError as error:
        log.warning("engine.compile: everything runs eagerly: %s", error)
        return
    responding = {
        item.problem
        for step in plan
        for item in step.responses
        if item.method.product is not None and PRODUCTS[item.method.product.name].second_order
    }
    updates = {step.problem: item for step in plan for item in step.instructions if isinstance(item, Update)}
    taped = {
        name
        for name, update in updates.items()
        if update.tape and next(program[name].module.buffers(), None) is not None
    }
    for step in plan:
        problem = program[step.problem]
        told = Teller(problem.name)
        if reason := _kept(updates.get(problem.name)) or _written(problem, taped) or _shared(problem):
            told("all of it", reason)
        else:
            _compile(problem, plan.compile, told, products=problem.name in responding)


def _kept(update: Update | None) -> str:
    """Why the updates of a problem cannot be compiled."""
    if update is None:
        return ""
    if update.tape or update.replay:
        return "unrolled needs gradients whose graph can be differentiated again"
    return "forward_mode needs gradients that carry tangents" if update.tangents else ""


def _written(problem: LiveProblem, taped: Container[str]) -> str:
    """Why evaluations of a problem's loss are in the way of graphs that are kept.

    Compiled code copies into buffers, which autograd notices; batch normalisation writes past it.
    """
    found = next((name for name in problem.objective.modules if name in taped), "")
    return f"it writes to buffers that the kept graphs of {found!r} hold" if found else ""


def _shared(problem: LiveProblem) -> str:
    """Why a loss cannot be compiled whose modules' parameters several processes share."""
    return "its parameters are gathered while its modules compute (fsdp)" if problem.objective.sharded else ""


def _compile(problem: LiveProblem, backend: str, told: Teller, *, products: bool) -> None:
    objective = problem.objective
    objective.quick = CompiledLoss(objective.loss, backend, told, host=objective.host_draws)
    if products and problem.scaler is None:
        objective.products = Products(objective, backend, told)
    elif products:
        told("its products", "in fp16 they need a scaled loss")
