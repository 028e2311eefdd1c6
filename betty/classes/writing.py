"""A program of classes as the text of a spec, with what a spec cannot say of it named where a target is to be put."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from betty.checking.spelling import to_flow, to_value
from betty.classes.runtime import Runtime
from betty.ir.graph import Edge
from betty.ir.graph import Problem as Node
from betty.problems.problem import Problem

FIELDS = {
    "unroll": 1,
    "precision": "fp32",
    "gradient_accumulation": 1,
    "activation_checkpointing": False,
    "gradient_clipping": None,
    "warm_up": 0,
}
"""Fields of a problem in a spec that a ``Config`` gives, with their defaults."""
UNWRITTEN = (
    "forward",
    "param_groups",
    "on_inner_loop_start",
    "grad_callback",
    "param_callback",
    "epoch_callback",
    "custom_optimizer_step",
    "parameters",
    "trainable_parameters",
    "meta_trainable_parameters",
)
"""Hooks that a spec has nothing for."""
Lines = Iterator[str]


def written(runtime: Runtime) -> str:
    """The spec of a program of classes, as far as it can be written.

    Methods, schedule, precision, optimisers and schedulers are written with their values; a module with its arguments
    where its attributes tell them, as those of ``torch.nn`` layers do. A ``training_step`` reads other problems as
    attributes, where the loss of a spec is a function of the batch and the problems: its place is held by the name of
    a function that is yet to be written, with a comment that says what of.
    """
    lines = [
        "# What a spec can say of this program of classes. Comments that begin with TO WRITE name the rest.",
        f"name: {_flow(runtime.config.name)}",
        "",
        "problems:",
    ]
    for node in runtime.compiled.graph.problems:
        lines += [f"  {line}" for line in _problem(runtime, node)]
    edges = [_edge(edge) for edge in runtime.compiled.graph.edges]
    lines += ["", *(["edges:", *edges] if edges else ["edges: []"]), "", "engine:"]
    lines += [f"  {line}" for line in _engine(runtime)]
    return "\n".join(lines) + "\n"


def _problem(runtime: Runtime, node: Node) -> Lines:
    problem = runtime.problems[node.name]
    yield f"{node.name}:"
    yield f"  module: {_made(problem.module, problem)}"
    views = ", ".join(["batch", node.name, *runtime.compiled.graph.reads(node.name)])
    yield (
        f"  loss: {_file(problem)}:{node.name}_loss  # TO WRITE: {type(problem).__name__}.training_step "
        f"as a function of ({views})"
    )
    yield from (f"  {line}" for line in _data(problem))
    if problem.optimizer is not None:
        yield f"  optimizer: {_flow({'target': _name(problem.optimizer), **_options(problem.optimizer)})}"
        if len(problem.optimizer.param_groups) > 1:
            yield "  # TO WRITE: a spec's optimizer has one group of parameters; the options are those of the first"
    if problem.scheduler is not None:
        yield f"  scheduler: {_made(problem.scheduler, problem)}"
    for name, default in FIELDS.items():
        known = {"gradient_accumulation": node.accumulation, "activation_checkpointing": node.recomputes}
        value = known.get(name, getattr(node, name, None))
        if value != default:
            yield f"  {name}: {_flow(value)}"
    if problem.scaler is not None:
        yield f"  scaler: {_flow(_scaling(problem.scaler))}"
    if found := [hook for hook in UNWRITTEN if _defined(problem, hook)]:
        yield f"  # TO WRITE: nothing in a spec stands for {', '.join(found)} of {type(problem).__name__}"


def _scaling(scaler: Any) -> dict[str, Any]:
    names = ("growth_factor", "backoff_factor", "growth_interval")
    return {"init_scale": scaler.get_scale(), **{name: getattr(scaler, f"get_{name}")() for name in names}}


def _defined(problem: Problem, hook: str) -> bool:
    return problem.is_implemented(hook) and getattr(type(problem), hook, None) is not getattr(Problem, hook, None)


def _data(problem: Problem) -> Lines:
    own = type(problem).get_batch is not Problem.get_batch
    loader = problem.train_data_loader
    if loader is None and not own:
        return
    source = "get_batch" if own else f"its train_data_loader ({type(loader).__name__})"
    target = f"{_file(problem)}:{problem.name}_data"
    if not own and isinstance(loader, DataLoader) and loader.batch_size is not None:
        shuffle = isinstance(loader.sampler, RandomSampler)
        options = {"target": target, "batch_size": loader.batch_size, "shuffle": shuffle, "drop_last": loader.drop_last}
        yield f"data: {_flow(options)}  # TO WRITE: a function that returns the data set of {source}"
    else:
        yield f"data: {target}  # TO WRITE: a function that returns the batches of {source}"


def _edge(edge: Edge) -> str:
    method = f", method: {to_flow(to_value(edge.method))}" if edge.method is not None else ""
    return f"  - {{upper: {edge.upper}, lower: {edge.lower}, flow: {edge.flow.value}{method}}}"


def _engine(runtime: Runtime) -> Lines:
    config = runtime.config
    yield f"iterations: {max(1, config.train_iters)}"
    if runtime.engine.is_implemented("validation"):
        target = f"{_file(runtime.engine)}:validate"
        yield (
            f"validate: {{target: {_flow(target)}, every: {config.valid_step}}}  "
            f"# TO WRITE: {type(runtime.engine).__name__}.validation as a function of the problems by name"
        )
        if config.early_stopping:
            stop = {"metric": config.early_stopping_metric, "mode": config.early_stopping_mode}
            yield f"early_stopping: {_flow({**stop, 'patience': max(1, config.early_stopping_tolerance)})}"
    yield f"log: {_flow({'every': config.log_every, 'tensorboard': config.logger_type == 'tensorboard'})}"
    if config.checkpoint_every:
        yield f"checkpoint: {_flow({'every': config.checkpoint_every, 'keep': config.checkpoint_keep})}"
    if config.roll_back:
        yield "roll_back: true"
    if config.memory:
        yield f"memory: {config.memory}"
    if config.compile:
        yield "compile: true"
    if runtime.env is not None:
        yield f"# TO WRITE: a spec has no environment; what {type(runtime.env).__name__} gives is data of the problems"
    if type(runtime.engine).train_step is not _base_of(runtime.engine).train_step:
        yield f"# TO WRITE: a spec has an order of steps of its own, not {type(runtime.engine).__name__}.train_step"


def _base_of(engine: Any) -> Any:
    return next(kind for kind in type(engine).__mro__ if kind.__module__.startswith("betty."))


def _made(part: Any, problem: Problem) -> str:
    """What makes a module or a scheduler again: its class, and the arguments that its attributes tell."""
    found, missing = arguments(part)
    target = f"{_file(part)}:{type(part).__qualname__}" if _own(part) else _name(part)
    if not missing:
        return (
            _flow({"target": target, **({"args": found} if isinstance(part, nn.Module) else found)})
            if found
            else target
        )
    kind = "module" if isinstance(part, nn.Module) else "scheduler"
    made = f"{_file(problem)}:make_{problem.name}_{kind}"
    return (
        f"{made}  # TO WRITE: a function that makes {type(part).__name__}; its {', '.join(missing)} cannot be read back"
    )


def arguments(part: Any) -> tuple[dict[str, Any], list[str]]:
    """Arguments of an object's class as its attributes of the same names hold them, and those that none holds."""
    found: dict[str, Any] = {}
    missing: list[str] = []
    for name, one in inspect.signature(type(part).__init__).parameters.items():
        if name in {"self", "optimizer", "last_epoch", "device", "dtype", "verbose"}:
            continue
        if one.kind in {one.VAR_POSITIONAL, one.VAR_KEYWORD}:
            missing += [name] if one.kind is one.VAR_POSITIONAL and list(part.children()) else []
            continue
        value = getattr(part, name, inspect.Parameter.empty)
        value = value is not None if name == "bias" and isinstance(part, nn.Module) else value
        if _plain(value) and value != one.default:
            found[name] = list(value) if isinstance(value, tuple) else value
        elif not _plain(value) and one.default is one.empty:
            missing.append(name)
    return found, missing


def _options(optimizer: Any) -> dict[str, Any]:
    """Options of the first group that are not the defaults of the optimiser's class."""
    known = inspect.signature(type(optimizer).__init__).parameters
    group: Mapping[str, Any] = optimizer.param_groups[0]
    options = {**group, "lr": group.get("initial_lr", group.get("lr"))}
    return {
        name: list(options[name]) if isinstance(options[name], tuple) else options[name]
        for name, one in known.items()
        if name in options and _plain(options[name]) and options[name] != one.default
    }


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(one) for one in value)
    return value is None or type(value) in {bool, int, float, str}


def _own(part: Any) -> bool:
    return type(part).__module__.split(".")[0] != "torch"


def _name(part: Any) -> str:
    """The shortest name under which a class can be imported: torch.nn.modules.linear.Linear is torch.nn.Linear."""
    kind = type(part)
    module = kind.__module__
    while (above := module.rpartition(".")[0]) and getattr(sys.modules.get(above), kind.__qualname__, None) is kind:
        module = above
    return f"{module}.{kind.__qualname__}"


def _file(part: Any) -> str:
    """The module in which a class stands, as a target names it."""
    module = type(part).__module__
    if module != "__main__":
        return module.rpartition(".")[2]
    path = getattr(sys.modules["__main__"], "__file__", None)
    return Path(path).stem if path else "program"


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("...").rstrip()
