"""What no single field shows: problems without losses, edges to nowhere, settings that need each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from betty.ir.diagnostics import Diagnostic, Field, listing, nearest
from betty.spec.fit import Fitted
from betty.spec.models import EdgeSpec, ProblemSpec, Spec
from betty.spec.readings import reading_diagnostics
from betty.spec.weights import weights_diagnostics


@dataclass(frozen=True)
class IndexedEdge:
    """An edge and its index in the spec as it was written."""

    index: int
    edge: EdgeSpec


def spec_diagnostics(spec: Spec, fitted: Fitted, names: Sequence[str]) -> Iterator[Diagnostic]:
    """Everything wrong with ``spec`` that needs no import; ``names`` are the problems as they were written."""
    if not names and not fitted.touched(("problems",)):
        yield Diagnostic(
            code="no-problems", field=("problems",), message="there are no problems", expected="at least one problem"
        )
    for name, problem in spec.problems.items():
        yield from _problem(("problems", name), name, problem, fitted)
        if not fitted.without_problems:
            yield from reading_diagnostics(spec, name, problem, names)
    if not fitted.without_problems:
        yield from edge_diagnostics(spec, fitted, names)
        yield from weights_diagnostics(spec, fitted, names)
    yield from _engine(spec, fitted)


def edge_diagnostics(spec: Spec, fitted: Fitted, names: Sequence[str]) -> Iterator[Diagnostic]:
    first: dict[tuple[str, str], int] = {}
    for index, edge in zip(fitted.edges, spec.edges, strict=True):
        unknown = [*_unknown(index, "upper", edge.upper, names), *_unknown(index, "lower", edge.lower, names)]
        yield from unknown
        pair = (edge.upper, edge.lower)
        if unknown:
            continue
        if edge.upper == edge.lower:
            yield Diagnostic(
                code="self-edge",
                field=("edges", index),
                message=f"the edge joins {edge.upper!r} with itself",
                expected="two different problems",
            )
        elif pair in first:
            yield Diagnostic(
                code="duplicate-edge",
                field=("edges", index),
                message=f"a second edge {edge.upper} -> {edge.lower}",
                expected=f"one edge a pair; the first is edges[{first[pair]}]",
                hint="remove one of the two",
            )
        first.setdefault(pair, index)


def kept_edges(spec: Spec, fitted: Fitted) -> list[IndexedEdge]:
    """The edges that can stand in a graph: they join two different problems that exist, one edge a pair."""
    kept: dict[tuple[str, str], IndexedEdge] = {}
    for index, edge in zip(fitted.edges, spec.edges, strict=True):
        if edge.upper != edge.lower and edge.upper in spec.problems and edge.lower in spec.problems:
            kept.setdefault((edge.upper, edge.lower), IndexedEdge(index, edge))
    return list(kept.values())


def _unknown(index: int, end: str, name: str, names: Sequence[str]) -> Iterator[Diagnostic]:
    if name not in names:
        yield Diagnostic(
            code="unknown-problem",
            field=("edges", index, end),
            message=f"there is no problem {name!r}",
            expected=f"one of {listing(names)}" if names else "a problem that is declared under problems",
            hint=(near := nearest(name, names)) and f"{end}: {near}",
        )


def _problem(path: Field, name: str, problem: ProblemSpec, fitted: Fitted) -> Iterator[Diagnostic]:
    yield from _parameters(path, name, problem, fitted)
    if problem.loss is None and not fitted.touched((*path, "loss")):
        yield Diagnostic(
            code="missing-loss",
            field=(*path, "loss"),
            message=f"problem {name!r} has no loss",
            expected="a function that takes the batch and problems by name",
            hint=f"loss: program:{name}_loss",
        )
    if problem.scheduler is not None and problem.optimizer is None and not fitted.touched((*path, "optimizer")):
        yield Diagnostic(
            code="needs-field",
            field=(*path, "scheduler"),
            message=f"problem {name!r} has a scheduler and no optimizer",
            expected="an optimizer beside the scheduler",
        )
    if problem.activation_checkpointing and problem.module is None and not fitted.touched((*path, "module")):
        yield Diagnostic(
            code="needs-field",
            field=(*path, "activation_checkpointing"),
            message=f"problem {name!r} has no module, whose activations could be computed again",
            expected="a module, or no activation_checkpointing",
        )
    if problem.shard_parameters and problem.module is None and not fitted.touched((*path, "module")):
        yield Diagnostic(
            code="needs-field",
            field=(*path, "shard_parameters"),
            message=f"problem {name!r} has no module, and it is modules that are spread over processes",
            expected="a module, or no shard_parameters",
        )


def _parameters(path: Field, name: str, problem: ProblemSpec, fitted: Fitted) -> Iterator[Diagnostic]:
    if problem.module is not None and problem.parameters is not None:
        yield Diagnostic(
            code="needs-one",
            field=(*path, "parameters"),
            message=f"problem {name!r} has a module and parameters",
            expected="one of the two",
        )
    if problem.parameters == {} and not fitted.touched((*path, "parameters")):
        yield Diagnostic(
            code="needs-one",
            field=(*path, "parameters"),
            message=f"the parameters of problem {name!r} are empty",
            expected="at least one parameter, such as {weight: {shape: [10]}}",
        )
    weights = problem.example_weights is not None or fitted.touched((*path, "example_weights"))
    given = problem.module is not None or problem.parameters is not None or weights
    if not given and not fitted.touched((*path, "module")) and not fitted.touched((*path, "parameters")):
        yield Diagnostic(
            code="needs-one",
            field=(*path, "module"),
            message=f"problem {name!r} has neither a module nor parameters",
            expected="module: program:Net, or parameters: {weight: {shape: [10]}}",
        )


def _engine(spec: Spec, fitted: Fitted) -> Iterator[Diagnostic]:
    engine = spec.engine
    touched = fitted.touched(("engine", "validate"))
    if engine.early_stopping is not None and engine.validation is None and not touched:
        yield Diagnostic(
            code="needs-field",
            field=("engine", "early_stopping"),
            message=f"early stopping watches {engine.early_stopping.metric!r}, but nothing is validated",
            expected="validate beside early_stopping",
            hint="validate: {target: program:accuracy, every: 100}",
        )
    if engine.on_nonfinite.action == "rollback" and engine.checkpoint is None and not _broken(fitted, "checkpoint"):
        yield Diagnostic(
            code="needs-field",
            field=("engine", "on_nonfinite"),
            message="rollback goes back to a checkpoint, but none is made",
            expected="checkpoint beside on_nonfinite",
            hint="checkpoint: {every: 200}",
        )
    yield from _scalers(spec, fitted)
    best = engine.checkpoint.best if engine.checkpoint is not None else None
    if best is not None and engine.validation is None and not touched:
        yield Diagnostic(
            code="needs-field",
            field=("engine", "checkpoint", "best"),
            message=f"checkpoints are compared by {best.metric!r}, but nothing is validated",
            expected="validate beside checkpoint",
            hint="validate: {target: program:accuracy, every: 100}",
        )


def _broken(fitted: Fitted, name: str) -> bool:
    """Whether a field of the engine was left out because something is wrong with it."""
    return fitted.touched(("engine", name))


def _scalers(spec: Spec, fitted: Fitted) -> Iterator[Diagnostic]:
    """Settings of a scaler that nothing uses."""
    engine, problems = spec.engine, spec.problems
    found = {name: problem.precision or engine.precision for name, problem in problems.items()}
    unused: list[Field] = [
        ("problems", name, "scaler") for name, one in problems.items() if one.scaler and found[name] != "fp16"
    ]
    if engine.scaler is not None and "fp16" not in found.values():
        unused.append(("engine", "scaler"))
    if _broken(fitted, "precision"):
        return
    for field in unused:
        if not fitted.touched((*field[:-1], "precision")):
            yield Diagnostic(
                code="unused-field",
                field=field,
                message="only fp16 scales a loss",
                expected="precision: fp16 beside it, or no scaler",
            )
