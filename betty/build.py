"""From a resolved spec to a live program: modules are made, placed and seeded, optimisers and data attached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from betty.backends.torch.errors import RunError
from betty.backends.torch.objective import Objective, ParameterModule, trainable, trainable_names
from betty.backends.torch.ordered import Ordered
from betty.backends.torch.processes import Processes, local_device
from betty.backends.torch.program import LiveProblem, Program
from betty.backends.torch.random import derived_seed, replaying
from betty.backends.torch.recompute import recompute
from betty.backends.torch.stream import Loading, Stream
from betty.backends.torch.trainer import EarlyStopping, Validation
from betty.backends.torch.trajectory.tuning import Tuned
from betty.backends.torch.updates import RULES
from betty.ir.diagnostics import BettyError, Diagnostic, Field, SpecError, listing, nearest
from betty.ir.graph import Graph
from betty.spec.faults import ScalerSpec
from betty.spec.frontend import Program as Parsed
from betty.spec.load import Document
from betty.spec.models import EngineSpec, ParameterSpec, ProblemSpec, Spec
from betty.spec.readings import TunedSpec, parameter_diagnostics
from betty.spec.resolve import Resolved, ResolvedProblem
from betty.spec.targets import described

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": None}
DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "fp64": torch.float64}


def pick_device(wanted: str) -> torch.device:
    """``auto`` as the accelerator that is there, else the CPU.

    Raises:
        RunError: The device is not on this machine.
    """
    if wanted == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"device {wanted!r} is not available here: {reason}") from None
    return torch.device(wanted)


@dataclass(frozen=True, eq=False)
class _Builder:
    document: Document
    graph: Graph
    resolved: Resolved
    device: torch.device
    processes: Processes | None = None

    @property
    def spec(self) -> Spec:
        return self.document.spec

    def run(self) -> Program:
        modules = {name: self._module(name, problem) for name, problem in self.spec.problems.items()}
        live = {
            name: self._problem(name, problem, self.resolved.problems[name], modules)
            for name, problem in self.spec.problems.items()
        }
        return Program(problems=live, device=self.device, processes=self.processes)

    def _precision(self, problem: ProblemSpec) -> str:
        return problem.precision or self.spec.engine.precision

    def _module(self, name: str, problem: ProblemSpec) -> nn.Module:
        dtype = DTYPES[self._precision(problem)]
        torch.manual_seed(derived_seed(self.spec.engine.seed, name))
        factory = self.resolved.problems[name].module
        if factory is None:
            self._check_names(name, problem)
            parameters = {key: initial(item, dtype) for key, item in (problem.parameters or {}).items()}
            return ParameterModule(parameters).to(self.device)
        module = self._call(("problems", name, "module"), factory)
        if not isinstance(module, nn.Module):
            raise self._wrong(name, "module", f"gave {type(module).__name__}", "a torch.nn.Module")
        if any(isinstance(parameter, nn.UninitializedParameter) for parameter in module.parameters()):
            found = "has parameters without a shape"
            raise self._wrong(name, "module", found, "a module whose sizes are given, or one that was called once")
        self._recompute(name, module, problem.activation_checkpointing)
        return module.to(device=self.device, dtype=dtype if dtype is torch.float64 else None)

    def _recompute(self, name: str, module: nn.Module, wanted: bool | list[str]) -> None:
        if wanted is False:
            return
        try:
            recompute(module, None if wanted is True else wanted)
        except LookupError as error:
            missing, parts = str(error.args[0]), [part for part, _ in module.named_modules() if part]
            raise self.document.report([unknown_part(name, missing, parts)]) from None

    def _problem(
        self, name: str, problem: ProblemSpec, found: ResolvedProblem, modules: Mapping[str, nn.Module]
    ) -> LiveProblem:
        precision, signature = self._precision(problem), found.signature
        reads = (name, *self.graph.reads(name)) if signature.everything else signature.reads
        objective = Objective(
            name,
            found.loss,
            {read: modules[read] for read in reads},
            takes_batch=signature.batch,
            device=self.device,
            autocast=AUTOCAST[precision],
        )
        objective.scaler = self._scaler(problem)
        tuned, start = self._tuned(name, problem, modules), problem.initial.source if problem.initial else ""
        if start:
            self._check_start(name, modules[name], start, modules[start])
        options = {one.option: float(one.value(trainable(modules[one.problem])).detach()) for one in tuned}
        optimizer = self._optimizer(name, modules[name], found.optimizer, options)
        scheduler = None
        if found.scheduler is not None and optimizer is not None:
            scheduler = self._call(("problems", name, "scheduler"), found.scheduler, optimizer)
        return LiveProblem(
            name=name,
            module=modules[name],
            objective=objective,
            optimizer=optimizer,
            scheduler=scheduler,
            stream=self._stream(name, problem, found.data, precision),
            gradient_clipping=problem.gradient_clipping,
            tuned=tuned,
            starts_from=start,
            scaler=objective.scaler,
        )

    def _scaler(self, problem: ProblemSpec) -> Any:
        """What scales the loss of a problem in half precision; ``None`` for others."""
        if self._precision(problem) != "fp16":
            return None
        settings = problem.scaler or self.spec.engine.scaler or ScalerSpec()
        return torch.amp.GradScaler(self.device.type, **settings.model_dump())

    def _tuned(self, name: str, problem: ProblemSpec, modules: Mapping[str, nn.Module]) -> tuple[Tuned, ...]:
        """The hyperparameters that are parameters of other problems."""
        found = problem.optimizer.tuned if problem.optimizer else {}
        return tuple(self._tuned_one(name, option, one, modules[one.problem]) for option, one in found.items())

    def _tuned_one(self, name: str, option: str, tuned: TunedSpec, module: nn.Module) -> Tuned:
        field = ("problems", name, "optimizer", "args", option, "from")
        names = trainable_names(module)
        if wrong := list(parameter_diagnostics(field, tuned, names)):
            raise self.document.report(wrong)
        position = names.index(tuned.parameter)
        shape = list(trainable(module)[position].shape)
        if trainable(module)[position].numel() != 1:
            message = f"the parameter {tuned.parameter!r} of {tuned.problem!r} has the shape {shape}"
            raise self.document.report(
                [Diagnostic(code="bad-reading", field=field, message=message, expected="a parameter with one entry")]
            )
        return Tuned(option, tuned.problem, position, tuned.transform)

    def _check_start(self, name: str, module: nn.Module, source: str, other: nn.Module) -> None:
        """A problem can begin only where its parameters find their own shapes."""
        own, theirs = ([tuple(leaf.shape) for leaf in trainable(one)] for one in (module, other))
        if own != theirs:
            raise self.document.report(
                [
                    Diagnostic(
                        code="bad-start",
                        field=("problems", name, "initial", "from"),
                        message=f"the parameters of {source!r} have other shapes than those of {name!r}",
                        expected=f"{len(own)} parameters of the shapes {', '.join(map(str, own))}",
                        hint=f"give {source} the same module as {name}",
                    )
                ]
            )

    def _optimizer(
        self, name: str, module: nn.Module, make: Callable[..., Any] | None, options: Mapping[str, float]
    ) -> Optimizer | None:
        if make is None:
            return None
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not parameters:
            raise self._wrong(name, "optimizer", "has nothing to optimise", "a module with trainable parameters")
        optimizer = self._call(("problems", name, "optimizer"), partial(make, **options), parameters)
        if not isinstance(optimizer, Optimizer):
            raise self._wrong(name, "optimizer", f"gave {type(optimizer).__name__}", "a torch.optim.Optimizer")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise self._wrong(
                name, "optimizer", "needs a closure that evaluates the loss again", "an optimiser without one"
            )
        return optimizer

    def _stream(self, name: str, problem: ProblemSpec, make: Callable[[], Any] | None, precision: str) -> Stream | None:
        data = problem.data
        if data is None or make is None:
            return None
        loading = Loading(
            batch_size=data.batch_size,
            shuffle=data.shuffle,
            drop_last=data.drop_last,
            workers=data.workers,
            seed=derived_seed(self.spec.engine.seed, name, "data"),
        )
        source = partial(self._call, ("problems", name, "data"), make)
        part = self.processes.part(loading.seed) if self.processes is not None and data.shard else None
        dtype = torch.float64 if precision == "fp64" else None
        return Stream(name, source, loading, self.device, dtype, part, data.shard)

    def ordered(self, name: str) -> Ordered | None:
        problem, make = self.spec.problems[name], self.resolved.problems[name].data
        if problem.data is None or make is None:
            return None
        loading = Loading(batch_size=problem.data.batch_size, workers=problem.data.workers, shuffle=False)
        dtype = torch.float64 if self._precision(problem) == "fp64" else None
        return Ordered(name, partial(self._call, ("problems", name, "data"), make), loading, self.device, dtype)

    def _check_names(self, name: str, problem: ProblemSpec) -> None:
        """A module keeps its parameters beside its own attributes, whose names are taken."""
        taken = [key for key in problem.parameters or {} if hasattr(nn.Module, key) or key in nn.Module().__dict__]
        if taken:
            raise self.document.report(
                Diagnostic(
                    code="bad-name",
                    field=("problems", name, "parameters", key),
                    message=f"{key!r} is a name that every torch.nn.Module uses itself",
                    expected="any other name",
                    hint=f"{key}_",
                )
                for key in taken
            )

    def _wrong(self, name: str, part: str, found: str, expected: str) -> SpecError:
        message = f"the target of {part!r} {found}"
        wrong = Diagnostic(code=f"wrong-{part}", field=("problems", name, part), message=message, expected=expected)
        return self.document.report([wrong])

    def _call(self, field: Field, make: Callable[..., Any], *arguments: Any) -> Any:
        """What a target makes; what it raises becomes a diagnostic that names the target and the line in its file."""
        try:
            return make(*arguments)
        except BettyError:
            raise
        except Exception as error:
            message = f"calling the target raised {described(error, self.document.folder)}"
            raise self.document.report([Diagnostic(code="call-failed", field=field, message=message)]) from error


def unknown_part(name: str, missing: str, parts: list[str]) -> Diagnostic:
    """A part of a module that is not there."""
    near = nearest(missing, parts)
    return Diagnostic(
        code="unknown-part",
        field=("problems", name, "activation_checkpointing"),
        message=f"the module of {name!r} has no part {missing!r}",
        expected=f"one of {listing(parts)}" if parts else "true: the module has no parts",
        hint=near and f"activation_checkpointing: [{near}]",
    )


def build(document: Document, graph: Graph, resolved: Resolved) -> Program:
    """Make everything that runs. Each problem's first parameters depend on the engine's seed and its own name alone.

    The global random states are as before afterwards.

    Raises:
        SpecError: A target gave something of the wrong kind.
        RunError: The device is missing.
    """
    engine = document.spec.engine
    device = local_device(pick_device(engine.device))
    processes = Processes.joined(engine.backend, engine.timeout, device)
    if processes is not None and engine.strategy == "single":
        raise RunError(
            f"engine.strategy is 'single', and {processes.count} processes have been started: expected 'auto', 'ddp', "
            "'zero' or 'fsdp', or one process"
        )
    with replaying(None, device):
        program = _Builder(document, graph, resolved, device, processes).run()
    if processes is not None:
        for problem in program.problems.values():
            processes.alike(problem.module)
    return program


def ordered(found: Parsed, name: str, device: torch.device) -> Ordered | None:
    """The data of a problem in its own order, nothing shuffled or dropped; ``None`` without data."""
    assert found.resolved is not None
    return _Builder(found.document, found.graph, found.resolved, device).ordered(name)


def build_validation(
    engine: EngineSpec, graph: Graph, resolved: Resolved, processes: Processes | None = None
) -> tuple[Validation | None, EarlyStopping | None]:
    """What the trainer measures and when it ends before time."""
    if engine.validation is None or resolved.validate is None or resolved.validate_signature is None:
        return None, None
    signature = resolved.validate_signature
    reads = tuple(problem.name for problem in graph.problems) if signature.everything else signature.reads
    validation = Validation(resolved.validate, reads, engine.validation.every, processes=processes)
    stop = engine.early_stopping
    rule = EarlyStopping(metric=stop.metric, mode=stop.mode, patience=stop.patience) if stop else None
    return validation, rule


def initial(spec: ParameterSpec, dtype: torch.dtype) -> Tensor:
    """The first value of a plain parameter."""
    if spec.init == "normal":
        return torch.randn(spec.shape, dtype=dtype)
    if spec.init == "uniform":
        return torch.rand(spec.shape, dtype=dtype)
    number = {"zeros": 0.0, "ones": 1.0}.get(spec.init) if isinstance(spec.init, str) else spec.init
    return torch.full(spec.shape, float(number or 0.0), dtype=dtype)


def check_trajectories(graph: Graph, program: Program) -> list[Diagnostic]:
    """Edges whose method differentiates updates that have no differentiable form here."""
    known = [optimizer.__name__ for optimizer in RULES]
    return [
        Diagnostic(
            code="undifferentiable-optimizer",
            field=("edges", index, "method"),
            message=f"{edge.method.solver.name!r} differentiates the updates of {edge.lower!r}, "
            f"whose optimizer is {_called(program[edge.lower].optimizer)}",
            expected=f"an optimizer among {', '.join(known)}, or an implicit method",
            hint="method: cg",
        )
        for index, edge in enumerate(graph.edges)
        if edge.method is not None and edge.method.trajectory and type(program[edge.lower].optimizer) not in RULES
    ]


def _called(optimizer: Optimizer | None) -> str:
    return "missing" if optimizer is None else type(optimizer).__name__
