"""The models of a spec: problems, edges, engine. Descriptions are the source of the reference and the JSON Schema."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from betty.ir.diagnostics import nearest
from betty.ir.methods import AUTO, Method
from betty.ir.records import Flow
from betty.ir.valuations import ValuationMethod
from betty.spec.faults import Nonfinite, NonfiniteSpec, ScalerSpec
from betty.spec.fields import WEIGHING, Name, OpenTarget, SpecModel, Target
from betty.spec.issues import Issue, one_of, refuse, shown
from betty.spec.method import method_issues, to_method
from betty.spec.readings import StartSpec, TunedSpec, tuned_issues, tuned_of
from betty.spec.sizes import Bytes
from betty.spec.valuation_method import to_valuation, valuation_issues
from betty.spec.weights import ExampleWeightsSpec

Precision = Literal["fp32", "bf16", "fp16", "fp64"]
INITS = ("zeros", "ones", "normal", "uniform")


def _check_init(value: Any) -> Any:
    if isinstance(value, str) and value in INITS:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    hint = nearest(value, INITS) if isinstance(value, str) else ""
    expected = f"a number, or {one_of(INITS)}"
    raise refuse(Issue(code="wrong-type", message=f"found {shown(value)}", expected=expected, hint=hint))


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_method(value: Any, info: ValidationInfo) -> Any:
    known = (info.context or {}).get(WEIGHING)
    if known is None:  # an edge by itself, made in Python: its upper is not known yet
        issues = method_issues(value) if valuation_issues(value) else []
    else:
        issues = valuation_issues(value) if info.data.get("upper") in known else method_issues(value)
    if issues:
        raise refuse(*issues)
    return value


def _check_run_name(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value):
        return value
    # The name becomes part of a folder's name.
    hint = re.sub(r"[^A-Za-z0-9_.-]+", "-", value).strip("-.")
    expected = "letters, digits, '-', '_' and '.'"
    raise refuse(Issue(code="bad-name", message=f"{value!r} is not a name", expected=expected, hint=hint))


COMPILERS = ("inductor", "aot_eager", "eager")


def _check_compile(value: Any) -> Any:
    if isinstance(value, bool) or value in COMPILERS:
        return value
    hint = nearest(value, COMPILERS) if isinstance(value, str) else ""
    raise refuse(
        Issue(
            code="bad-choice",
            message=f"found {shown(value)}",
            expected=f"true, false, or what compiles: {one_of(COMPILERS)}",
            hint=hint,
        )
    )


DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


def _check_device(value: str) -> str:
    if value in DEVICES or re.fullmatch(r"(cuda|xpu):\d{1,4}", value):
        return value
    expected = f"{one_of(DEVICES)}, or one of several such as cuda:1"
    hint = "cuda" if value == "gpu" else nearest(value, DEVICES)
    raise refuse(Issue(code="bad-choice", message=f"{value!r} is not a device", expected=expected, hint=hint))


class ParameterSpec(SpecModel):
    """One named parameter of a problem that has no module."""

    shape: Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_listed)] = Field(
        default=[], description="Lengths of the dimensions; `[]` is a single number."
    )
    init: Annotated[
        float | Literal["zeros", "ones", "normal", "uniform"],
        BeforeValidator(_check_init),
        WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": list(INITS)}]}),
    ] = Field(
        default=0.0,
        description="First value: a number for all entries, `zeros`, `ones`, `normal` (mean 0, deviation 1) or "
        "`uniform` (between 0 and 1).",
    )


class DataSpec(Target):
    """Where a problem's batches come from: something that makes a dataset, an iterable or a data loader."""

    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Examples per batch; empty where the target already yields batches.",
    )
    shuffle: bool = Field(default=True, description="Draw the examples of a dataset in a new order every epoch.")
    drop_last: bool = Field(default=False, description="Leave out the last batch of an epoch where it is smaller.")
    workers: int = Field(default=0, ge=0, description="Processes that load data; `0` loads in the main one.")
    shard: bool = Field(
        default=True,
        description="Whether each of several processes takes its part of every batch; otherwise all take the whole.",
    )


class OptimizerSpec(OpenTarget):
    """The optimiser of a problem, called with its parameters first; options may stand beside `target`.

    An option may be a parameter of a problem above this one: `lr: {from: tuner.log_rate, transform: exp}`, where the
    transform is `identity`, `exp`, `softplus` or `sigmoid`.
    """

    @field_validator("args")
    @classmethod
    def _check_tuned(cls, args: dict[str, Any]) -> dict[str, Any]:
        if issues := tuned_issues(args):
            raise refuse(*issues)
        return args

    @property
    def tuned(self) -> dict[str, TunedSpec]:
        """The options that are parameters of other problems."""
        return tuned_of(self.args)


class SchedulerSpec(OpenTarget):
    """The learning-rate schedule of a problem, called with its optimiser first; options may stand beside `target`."""


class ProblemSpec(SpecModel):
    """One optimisation problem: parameters, the loss that they minimise, data and an optimiser."""

    module: Target | None = Field(
        default=None, description="What makes the problem's `torch.nn.Module`. Either this or `parameters`."
    )
    parameters: dict[Name, ParameterSpec] | None = Field(
        default=None, description="Named parameters of a problem without a module. Either this or `module`."
    )
    loss: Target | None = Field(
        default=None,
        description="The loss. It takes the batch as `batch` and every problem that it reads by that problem's name, "
        "and returns a scalar, or a mapping with `loss` and metrics.",
    )
    data: DataSpec | None = Field(default=None, description="Where the batches come from; none for a loss without.")
    optimizer: OptimizerSpec | None = Field(
        default=None, description="The optimiser; a problem without one is never updated."
    )
    initial: StartSpec | None = Field(
        default=None,
        description="The problem above this one at whose parameters it begins anew after every step of that problem: "
        "`{from: meta}`, a meta-learned initialisation.",
    )
    scheduler: SchedulerSpec | None = Field(default=None, description="Learning-rate schedule, stepped once an update.")
    unroll: int = Field(
        default=1, ge=1, description="Updates of this problem between two updates of a problem above it."
    )
    precision: Precision | None = Field(
        default=None, description="Precision of this problem's loss; the engine's where empty."
    )
    scaler: ScalerSpec | None = Field(
        default=None, description="How its loss is scaled in `fp16`; the engine's settings where empty."
    )
    activation_checkpointing: Annotated[bool | list[str], BeforeValidator(_listed)] = Field(
        default=False,
        description="Compute activations again in the backward pass instead of keeping them: `true` for the blocks of "
        "the module (members of its lists that have parts, such as the layers of a transformer; the whole where there "
        "are none), or names of its parts, or patterns such as `layers.*`.",
    )
    gradient_accumulation: int = Field(default=1, ge=1, description="Micro-batches whose gradients make one update.")
    gradient_clipping: float | None = Field(
        default=None, gt=0, description="Greatest norm of the gradient; empty for no limit."
    )
    warm_up: int = Field(
        default=0, ge=0, description="Micro-batches of this problem before the problems above it begin to step."
    )
    example_weights: ExampleWeightsSpec | None = Field(
        default=None,
        description="Makes this problem one weight, one, for each training example of the problem below it, whose loss "
        "gives one number for each example: how much the weights change this problem's loss is what the examples are "
        "worth. It has a `loss` (of the queries) and may have `data` (the queries), and nothing to train.",
    )
    shard_parameters: bool | None = Field(
        default=None,
        description="Whether the strategy `fsdp` spreads the parameters of this problem's module over the processes; "
        "where empty, it does so for modules of at least 1,000,000 parameters.",
    )

    @property
    def update_reads(self) -> tuple[str, ...]:
        """Problems that its updates read beside its loss."""
        tuners = [one.problem for one in self.optimizer.tuned.values()] if self.optimizer else []
        return tuple(dict.fromkeys([*tuners, *([self.initial.source] if self.initial else [])]))


class EdgeSpec(SpecModel):
    """An upper and a lower problem, and what flows between them."""

    upper: str = Field(description="Name of the upper problem.")
    lower: str = Field(description="Name of the lower problem.")
    flow: Annotated[Flow, Field(strict=False)] = Field(
        default=Flow.BOTH,
        description="`down`: the lower's loss reads the upper's parameters; `up`: the upper's loss reads the lower's "
        "solution; `both`: both.",
    )
    method: Annotated[str | dict[str, Any], BeforeValidator(_check_method)] = Field(
        default=AUTO,
        description="How the lower's response is approximated: `auto`, the name of a method, `{name: ..., options}`, "
        "or an inverse and a product: `{inverse: ..., product: ...}`. Of an upper with `example_weights`, how examples "
        "are valued: `auto`, `logra`, `{name: logra, rank: 64}`, ...",
    )

    def to_method(self) -> Method | None:
        """The method with every option written out; ``None`` where a pass is to choose (``auto``)."""
        return to_method(self.method)

    def to_valuation(self) -> ValuationMethod | None:
        """The same of an edge whose upper is example weights."""
        return to_valuation(self.method)


class ValidateSpec(Target):
    """A function that measures how good the problems are; takes problems by name and returns numbers by name."""

    every: int = Field(default=100, ge=1, description="Iterations between two validations.")


class EarlyStoppingSpec(SpecModel):
    """End the run when a metric of the validation no longer improves."""

    metric: str = Field(description="Name of a metric that `validate` returns.")
    mode: Literal["min", "max"] = Field(default="min", description="Whether small or great values are good.")
    patience: int = Field(default=5, ge=1, description="Validations without improvement before the run ends.")


class LogSpec(SpecModel):
    """What is written down during a run."""

    every: int = Field(default=10, ge=1, description="Iterations between two records in `metrics.jsonl`.")
    tensorboard: bool = Field(default=False, description="Write TensorBoard events too.")


class BestSpec(SpecModel):
    """What makes one checkpoint better than another."""

    metric: str = Field(description="A metric that `validate` returns.")
    mode: Literal["min", "max"] = Field(default="min", description="Whether less or more of it is better.")


class CheckpointSpec(SpecModel):
    """When the state of a run is saved."""

    every: int = Field(default=200, ge=1, description="Iterations between two checkpoints.")
    keep: int = Field(default=3, ge=1, description="Checkpoints to keep; older ones are deleted.")
    best: BestSpec | None = Field(
        default=None, description="Keep the best of those that were validated too, as `best.pt`; needs `validate`."
    )


Strategy = Literal["auto", "single", "ddp", "zero", "fsdp"]


class EngineSpec(SpecModel):
    """What holds for the whole run."""

    iterations: int = Field(default=1000, ge=1, description="Iterations; in each, every leaf problem steps once.")
    device: Annotated[str, AfterValidator(_check_device)] = Field(
        default="auto", description="`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:0`, `mps`, ..."
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of all random numbers.")
    precision: Precision = Field(
        default="fp32",
        description="Precision of problems that do not name their own. `bf16` and `fp16` evaluate losses under "
        "`torch.autocast`; parameters stay in single precision. `fp64` has parameters and data in double precision.",
    )
    scaler: ScalerSpec | None = Field(
        default=None, description="How losses in `fp16` are scaled, of problems that have no settings of their own."
    )
    on_nonfinite: Nonfinite = Field(
        default_factory=NonfiniteSpec,
        description="What to do where a loss, a gradient, a hypergradient or a solve is not finite: `stop`, `skip`, "
        "`rollback`, or `{action: skip, limit: 10}`.",
    )
    # Named apart from its key, as pydantic's models have a method called validate.
    validation: ValidateSpec | None = Field(
        default=None, alias="validate", description="A function that is called now and then to measure progress."
    )
    early_stopping: EarlyStoppingSpec | None = Field(
        default=None, description="When to end before all iterations are done; needs `validate`."
    )
    roll_back: bool = Field(
        default=False,
        description="Whether the updates that lead up to a step of a problem above are a look-ahead: taken back after "
        "that step, and followed by one real update.",
    )
    memory: Bytes = Field(
        default=None,
        description="Memory that the program may take on its device, such as `4 GiB`; `auto` chooses methods that fit.",
    )
    compile: Annotated[bool | Literal["inductor", "aot_eager", "eager"], BeforeValidator(_check_compile)] = Field(
        default=False,
        description="Whether `torch.compile` compiles losses, their gradients and the products of methods: `true` is "
        "`inductor`; `aot_eager` and `eager` go part of the way, to find out which part is to blame for something.",
    )
    log: LogSpec = Field(default_factory=LogSpec, description="What is written down during a run.")
    checkpoint: CheckpointSpec | None = Field(default=None, description="When the state is saved; empty for never.")
    strategy: Strategy = Field(
        default="auto",
        description="How the processes that `torchrun` has started share the work: `ddp` (each has all parameters and "
        "its part of every batch), `zero` (and a part of the optimisers' states), `fsdp` (and a part of the parameters "
        "of great modules), `single` (there is one process), or `auto`: `ddp` where there are several.",
    )
    adjoints: Literal["mean", "local"] = Field(
        default="mean",
        description="What `identity` and `sama` answer in each of several processes: the `mean` of all adjoints, by "
        "which the hypergradient is that of one process, or its own (`local`), as in SAMA's paper: one exchange fewer "
        "of the size of the lower, and a biased hypergradient.",
    )
    backend: Literal["auto", "gloo", "nccl", "mpi"] = Field(
        default="auto", description="How processes talk to one another: `auto` is `nccl` on GPUs and `gloo` on CPUs."
    )
    timeout: float = Field(
        default=1800.0, gt=0, description="Seconds that a process waits for the others in one operation of all of them."
    )

    @property
    def compiler(self) -> str:
        """What compiles; empty for nothing."""
        return COMPILERS[0] if self.compile is True else self.compile or ""


class Spec(SpecModel):
    """A multilevel program and how to run it."""

    name: Annotated[str, AfterValidator(_check_run_name)] = Field(
        description="Name of the program; folders of runs are called after it."
    )
    problems: dict[Name, ProblemSpec] = Field(description="The problems by name.")
    edges: list[EdgeSpec] = Field(default=[], description="Who is upper and who is lower to whom.")
    engine: EngineSpec = Field(default_factory=EngineSpec, description="What holds for the whole run.")
