"""Settings of a class program: one ``Config`` for each problem, one ``EngineConfig`` for the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from betty.checked import Checked, ConfigError, Wrong, caller, checked, choice, flag, number, text, whole
from betty.ir.diagnostics import nearest
from betty.ir.methods import AUTO, PRESETS, PRODUCTS, Method, preset
from betty.spec.issues import one_of, shown
from betty.spec.method import method_issues, to_method

__all__ = ["Config", "ConfigError", "EngineConfig"]

DARTS = "darts"
"""The first Betty's name of the preset ``finite_difference``."""
TYPES = (DARTS, AUTO, *sorted(PRESETS))


def _type(value: Any) -> Wrong | None:
    """What is wrong with a ``Config.type``."""
    if isinstance(value, Method) or (isinstance(value, str) and value in TYPES):
        return None
    if isinstance(value, str) and value not in PRODUCTS:
        near = nearest(value, TYPES)
        return f"{value!r} is not a hypergradient method", one_of(TYPES), repr(near) if near else ""
    if not isinstance(value, str | Mapping):
        return f"found {shown(value)}", "a name, a mapping or a betty.ir.methods.Method", repr(DARTS)
    issues = method_issues(value)
    if not issues:
        return None
    places = [f"{'.'.join(map(str, issue.at))}: " if issue.at else "" for issue in issues]
    found = "; ".join(place + issue.message for place, issue in zip(places, issues, strict=True))
    hints = [f" (did you mean {issue.hint.removeprefix('method: ')}?)" if issue.hint else "" for issue in issues]
    expected = "; ".join(issue.expected + hint for issue, hint in zip(issues, hints, strict=True))
    return found, expected, ""


@dataclass
class Config(Checked):
    """How one problem is trained, and how it answers to the problems above it.

    Fields may be assigned afterwards as well, until the engine is made, and are checked then too.

    Args:
        type: How the response of this problem's solution is computed: ``"darts"``, ``"sama"``, ``"cg"``,
            ``"neumann"``, ``"reinforce"`` and every other preset of :data:`betty.ir.methods.PRESETS`; ``"auto"``
            leaves the choice to the compiler; a mapping as the ``method`` of a spec's edge, such as
            ``{"name": "nystrom", "rank": 20}``; or a :class:`betty.ir.methods.Method`.
        first_order: ``False`` asks for no response of the problems below, which leaves a problem without a
            hypergradient: an error unless it has none to compute.
        retain_graph: Accepted for old programs; graphs are kept exactly where something still needs them.
        allow_unused: Whether trainable parameters that the loss does not use are allowed.
        unroll_steps: Updates between two steps of the problems above.
        activation_checkpointing: Compute activations again in the backward pass instead of keeping them: those of the
            module's blocks (members of its lists that have parts; the whole where there are none).
        gradient_accumulation: Micro-batches averaged in one update.
        gradient_clipping: Greatest norm of the gradient; ``0`` does not clip.
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"`` (autocast) or ``"fp64"`` (parameters in double precision).
        initial_dynamic_scale: First factor on the loss in ``fp16``.
        scale_factor: By how much that factor grows and shrinks.
        warmup_steps: Micro-batches before the problems above take their first step.
        log_step: Steps between two messages about the loss; ``-1`` for none.
        log_local_step: Count logged values in the problem's own steps, not in those of the engine.
        darts_alpha: Length of the finite difference of ``"darts"``.
        darts_multitask: Leave the parameters where the last perturbation of ``"darts"`` has them: a step of length
            ``darts_alpha`` down the upper's loss.
        sama_adam_alpha: Length of the finite difference of ``"sama"``.
        sama_multitask: The same for ``"sama"``.
        neumann_iterations: Corrections after the leading term of ``"neumann"``.
        neumann_alpha: Step of its series, below two over the largest eigenvalue of the Hessian.
        cg_iterations: Conjugate-gradient steps of ``"cg"``.
        cg_alpha: Changes nothing: it scales the system and the solution alike, so that ``H^{-1} v`` is the same for
            every value. (The first Betty scales one side alone, and so the hypergradient by this factor.)
        fp16: Deprecated name of ``precision="fp16"``.

    Raises:
        ConfigError: Everything wrong with the values.
    """

    type: str | Mapping[str, Any] | Method = checked(DARTS, _type)  # noqa: RUF009 - makes a field
    first_order: bool = flag(True)
    retain_graph: bool = flag(False)
    allow_unused: bool = flag(True)
    unroll_steps: int = whole(1, least=1)
    gradient_accumulation: int = whole(1, least=1)
    activation_checkpointing: bool = flag(False)
    gradient_clipping: float = number(0.0, least=0.0)
    precision: str = choice("fp32", "fp32", "bf16", "fp16", "fp64")
    initial_dynamic_scale: float = number(4096.0, above=0.0)
    scale_factor: float = number(2.0, above=1.0)
    warmup_steps: int = whole(0, least=0)
    log_step: int = whole(-1)
    log_local_step: bool = flag(False)
    darts_alpha: float = number(0.01, above=0.0)
    darts_multitask: bool = flag(False)
    sama_adam_alpha: float = number(1.0, above=0.0)
    sama_multitask: bool = flag(False)
    neumann_iterations: int = whole(1, least=0)
    neumann_alpha: float = number(1.0, above=0.0)
    cg_iterations: int = whole(1, least=1)
    cg_alpha: float = number(1.0, above=0.0)
    fp16: bool = flag(False)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # The last of the fields: by now precision has been set.
        if name == "fp16" and self.fp16:
            _deprecated('Config(fp16=True) is deprecated: write Config(precision="fp16")')
            self.precision = "fp16"

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, Wrong]]:
        precision = values.get("precision", "fp32")
        if values.get("fp16") and precision not in {"fp32", "fp16"}:
            found = f"found True beside precision={precision!r}"
            yield "fp16", (found, "precision alone", f"precision={precision!r}")

    def to_method(self) -> Method | None:
        """The method by which the problem answers, with every option written out; ``None`` for ``"auto"``."""
        if isinstance(self.type, Method):
            return self.type
        if not isinstance(self.type, str):
            return to_method(self.type)
        known: dict[str, Callable[[], Method]] = {
            DARTS: lambda: _differences("finite_difference", self.darts_alpha, self.darts_multitask),
            "sama": lambda: _differences("sama", self.sama_adam_alpha, self.sama_multitask),
            "neumann": lambda: preset("neumann", {"iterations": self.neumann_iterations, "alpha": self.neumann_alpha}),
            # A tolerance of nothing: the first Betty makes all its iterations.
            "cg": lambda: preset("cg", {"iterations": self.cg_iterations, "tolerance": 0.0}),
        }
        return known[self.type]() if self.type in known else to_method(self.type)


def _differences(name: str, epsilon: float, multitask: bool) -> Method:
    return preset(name, {"epsilon": epsilon, "multitask": multitask})


def _deprecated(message: str) -> None:
    """Warn at the line of the program that asks for what is deprecated."""
    frame = caller()
    warnings.warn_explicit(
        message,
        DeprecationWarning,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


@dataclass
class EngineConfig(Checked):
    """How a class program runs.

    The fields up to ``early_stopping_tolerance`` are those of the first Betty; the others are additions.

    Args:
        train_iters: Steps of the leaves, which are the problems with none below them.
        valid_step: Steps between two validations.
        logger_type: Where metrics go: ``"none"`` (or ``"dummy"``), ``"tensorboard"``, ``"wandb"``.
        roll_back: Take a lower's look-ahead back once the problems above have answered it, and step again.
        strategy: Where and on how many processes the program runs.
        backend: How processes talk to one another: ``"nccl"``, ``"gloo"`` or ``"mpi"``.
        early_stopping: End when validation no longer improves.
        early_stopping_metric: What validation returns under this name is watched.
        early_stopping_mode: Whether less (``"min"``) or more (``"max"``) is better.
        early_stopping_tolerance: Validations without improvement that are put up with.
        name: Addition: folders of runs are called after it; letters, digits, ``-``, ``_`` and ``.``.
        log_every: Addition: iterations between two rows of metrics.
        checkpoint_every: Addition: iterations between two checkpoints; ``0`` for none.
        checkpoint_keep: Addition: latest checkpoints that are kept.
        memory: Addition: bytes that the program may take on its device, for methods that ``"auto"`` chooses; ``0`` for
            no limit.
        compile: Addition: compile losses, their gradients and the products of methods by ``torch.compile``.
        timeout: Addition: seconds that a process waits for the others, in a slow validation for instance.
        on_nonfinite: Addition: what to do where a loss, gradient, hypergradient or solve is not finite: ``"stop"``
            before the update is made, ``"skip"`` the update, or ``"rollback"`` to the last checkpoint.
        nonfinite_limit: Addition: updates of one problem skipped in a row, or times that the run has gone back, before
            it stops after all.

    Raises:
        ConfigError: Everything wrong with the values.
    """

    train_iters: int = whole(50000, least=0)
    valid_step: int = whole(500, least=1)
    logger_type: str = choice("none", "none", "tensorboard", "wandb", "dummy")
    roll_back: bool = flag(False)
    strategy: str = choice("default", "default", "cpu", "gpu", "distributed", "zero", "fsdp", "accelerate")
    backend: str = choice("nccl", "nccl", "gloo", "mpi")
    early_stopping: bool = flag(False)
    early_stopping_metric: str = text("loss", r"(?s).+", "the name of a metric")
    early_stopping_mode: str = choice("min", "min", "max")
    early_stopping_tolerance: int = whole(5, least=0)
    name: str = text("program", r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "letters, digits, '-', '_' and '.'")
    log_every: int = whole(10, least=1)
    checkpoint_every: int = whole(0, least=0)
    checkpoint_keep: int = whole(3, least=1)
    memory: int = whole(0, least=0)
    compile: bool = flag(False)
    timeout: float = number(1800.0, above=0.0)
    on_nonfinite: str = choice("stop", "stop", "skip", "rollback")
    nonfinite_limit: int = whole(5, least=1)

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, Wrong]]:
        if values.get("on_nonfinite") == "rollback" and not values.get("checkpoint_every"):
            found = "found 'rollback', which goes back to a checkpoint, and none is made"
            yield "on_nonfinite", (found, "checkpoint_every beside it", "checkpoint_every=200")
