"""The parts of a problem: made by its ``configure_`` hooks where they were not given, and checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from betty.ir.diagnostics import BettyError, nearest
from betty.problems.problem import Problem


def configure(problem: Problem, device: torch.device) -> None:
    """Make what is missing of loader, module, optimiser and scheduler, in this order, and put the module in its place.

    Objects that a program has made are kept, never built again.

    Raises:
        BettyError: There is no module, or a part is of the wrong kind.
    """
    problem.device = device
    _make(problem, "train_data_loader")
    _make(problem, "module")
    if not isinstance(problem.module, nn.Module):
        raise BettyError(
            f"problem {problem.name!r} has {_found(problem.module)} as its module: "
            "expected a torch.nn.Module, given as module=... or made by configure_module"
        )
    problem.module.to(device=device, dtype=torch.float64 if problem.config.precision == "fp64" else None)
    if problem.config.precision == "fp16" and problem.scaler is None:
        scale, factor = problem.config.initial_dynamic_scale, problem.config.scale_factor
        problem.scaler = torch.amp.GradScaler(device.type, scale, growth_factor=factor, backoff_factor=1 / factor)
    _make(problem, "optimizer")
    _check_optimizer(problem)
    regroup(problem)
    _make(problem, "scheduler")
    check_scheduler(problem)


def _make(problem: Problem, part: str) -> None:
    hook = f"configure_{part}"
    if getattr(problem, part) is None and problem.is_implemented(hook):
        setattr(problem, part, getattr(problem, hook)())


def _found(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _check_optimizer(problem: Problem) -> None:
    optimizer = problem.optimizer
    if optimizer is None:
        return
    if not isinstance(optimizer, Optimizer):
        raise BettyError(f"the optimizer of {problem.name!r} is {_found(optimizer)}: expected a torch.optim.Optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise BettyError(
            f"the optimizer of {problem.name!r} is LBFGS, which evaluates the loss again by itself: "
            "expected an optimizer without a closure"
        )


def regroup(problem: Problem) -> None:
    """Give the optimiser the groups of the hook ``param_groups``; the object, and its defaults, stay."""
    if not problem.is_implemented("param_groups") or problem.optimizer is None:
        return
    groups = problem.param_groups()  # type: ignore[attr-defined]
    optimizer = problem.optimizer
    optimizer.param_groups.clear()
    for group in groups if all(isinstance(one, dict) for one in groups) else [{"params": list(groups)}]:
        optimizer.add_param_group(dict(group))
    _regroup_schedule(problem)


def _regroup_schedule(problem: Problem) -> None:
    """A scheduler that was made for other groups goes on with the first group's schedule for each of the new ones."""
    scheduler, groups = problem.scheduler, problem.optimizer.param_groups
    if scheduler is None or getattr(scheduler, "optimizer", None) is not problem.optimizer:
        return
    rates = getattr(scheduler, "base_lrs", None)
    for group in groups:
        default = scheduler.optimizer.defaults.get("lr")
        group.setdefault("initial_lr", rates[0] if rates and group["lr"] == default else group["lr"])
    if rates is not None:
        factor = scheduler.get_last_lr()[0] / rates[0] if rates[0] else 1.0
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        for group in groups:
            group["lr"] = group["initial_lr"] * factor
        scheduler._last_lr = [group["lr"] for group in groups]
    if hasattr(scheduler, "lr_lambdas"):
        scheduler.lr_lambdas = [scheduler.lr_lambdas[0]] * len(groups)


def check_scheduler(problem: Problem) -> None:
    """Refuse a scheduler that moves another optimiser than the problem's.

    Raises:
        BettyError: It does, or it cannot step.
    """
    scheduler = problem.scheduler
    if scheduler is None:
        return
    if not callable(getattr(scheduler, "step", None)):
        raise BettyError(
            f"the scheduler of {problem.name!r} is {_found(scheduler)}: expected one of torch.optim.lr_scheduler"
        )
    moved = getattr(scheduler, "optimizer", problem.optimizer)
    if moved is not problem.optimizer:
        raise BettyError(
            f"the scheduler of {problem.name!r} moves another optimizer than the problem's: "
            "make it from the optimizer that the problem has"
        )


def names_of(problem: Problem, hook: str) -> tuple[str, ...] | None:
    """Names, in the module, of the parameters that a hook returns; ``None`` where these are all that train.

    Raises:
        BettyError: The hook returns what is no parameter of the module.
    """
    module = problem.module
    wanted: Iterable[Tensor] = getattr(problem, hook)()
    if isinstance(wanted, Tensor):
        wanted = [wanted]
    ids = {id(parameter) for parameter in wanted}
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    found = tuple(name for name, parameter in named.items() if id(parameter) in ids)
    if foreign := ids - {id(parameter) for parameter in module.parameters()}:
        raise BettyError(
            f"{hook} of {problem.name!r} returns {len(foreign)} tensors that are no parameters of its module: "
            "expected parameters of self.module; put others into it, as an nn.ParameterList for instance"
        )
    return None if len(found) == len(named) else found


def optimized(problem: Problem, names: tuple[str, ...] | None) -> None:
    """Refuse an optimiser that moves none of the problem's parameters.

    Raises:
        BettyError: It does not.
    """
    if problem.optimizer is None:
        return
    named = dict(problem.module.named_parameters())
    own = {id(named[name]) for name in (names if names is not None else named)}
    held = {id(one) for group in problem.optimizer.param_groups for one in group["params"]}
    if not own & held:
        raise BettyError(
            f"the optimizer of {problem.name!r} holds none of the parameters of its module: "
            f"make it from them, {type(problem.optimizer).__name__}(module.parameters(), ...)"
        )


def hint_of(name: str, known: Iterable[str]) -> str:
    near = nearest(name, list(known))
    return f" (did you mean {near!r}?)" if near else ""
