"""What a problem's updates read of other problems: hyperparameters of its optimiser, and where it starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from betty.ir.diagnostics import Diagnostic, nearest
from betty.spec.fields import SpecModel
from betty.spec.issues import Issue, one_of, shown, unknown_name

if TYPE_CHECKING:
    from betty.spec.models import ProblemSpec, Spec

TRANSFORMS = ("identity", "exp", "softplus", "sigmoid")
KEYS = ("from", "transform")


class StartSpec(SpecModel):
    """Where a problem begins anew: at the parameters of a problem above it, whose module has the same shapes."""

    source: str = Field(alias="from", description="Name of that problem.")


@dataclass(frozen=True)
class TunedSpec:
    """One option of an optimiser that is a parameter of another problem, as the spec names it."""

    problem: str
    parameter: str
    transform: str


def tuned_of(args: Mapping[str, Any]) -> dict[str, TunedSpec]:
    """Those of an optimiser's options that are readings."""
    found = {key: value for key, value in args.items() if _is_reading(value)}
    return {
        key: TunedSpec(*str(value["from"]).partition(".")[::2], value.get("transform", "identity"))
        for key, value in found.items()
    }


def _is_reading(value: Any) -> bool:
    return isinstance(value, Mapping) and any(key in value for key in KEYS)


def tuned_issues(args: Mapping[str, Any]) -> list[Issue]:
    """Everything wrong with readings among an optimiser's options that the options show by themselves."""
    return [issue for key, value in args.items() if _is_reading(value) for issue in _reading_issues(key, value)]


def _reading_issues(option: str, value: Mapping[str, Any]) -> Iterator[Issue]:
    for key in value:
        if key not in KEYS:
            message = f"{key!r} is no part of a hyperparameter that is read"
            wrong = unknown_name("unknown-field", message, str(key), KEYS, (option, key))
            yield replace(wrong, key=True)
    source = value.get("from")
    if not isinstance(source, str) or not all(source.partition(".")[::2]):
        found = f"found {shown(source)}" if "from" in value else "it is not said which parameter"
        yield Issue(
            code="bad-reading",
            message=found,
            at=(option, "from") if "from" in value else (option,),
            expected="from: a problem and its parameter, such as tuner.log_rate",
        )
    transform = value.get("transform", "identity")
    if transform not in TRANSFORMS:
        yield Issue(
            code="bad-choice",
            message=f"{transform!r} is no transform",
            at=(option, "transform"),
            expected=one_of(TRANSFORMS),
            hint=nearest(transform, TRANSFORMS) if isinstance(transform, str) else "",
        )


def reading_diagnostics(spec: Spec, name: str, problem: ProblemSpec, names: Sequence[str]) -> Iterator[Diagnostic]:
    """Readings of problems and parameters that do not exist, and hyperparameters that a scheduler sets as well."""
    path = ("problems", name)
    if problem.initial is not None:
        yield from _source((*path, "initial", "from"), problem.initial.source, name, names)
        if problem.optimizer is None:
            yield Diagnostic(
                code="needs-field",
                field=(*path, "initial"),
                message=f"problem {name!r} begins anew and has no optimizer to move on",
                expected="an optimizer beside initial",
            )
    for option, tuned in (problem.optimizer.tuned if problem.optimizer else {}).items():
        at = (*path, "optimizer", "args", option)
        wrong = list(_source((*at, "from"), tuned.problem, name, names, tuned.parameter))
        yield from wrong
        known = spec.problems.get(tuned.problem)
        if not wrong and known is not None and known.parameters is not None:
            yield from parameter_diagnostics((*at, "from"), tuned, list(known.parameters))
        if option in _scheduled(problem):
            yield Diagnostic(
                code="set-twice",
                field=at,
                message=f"{option!r} of {name!r} is read from {tuned.problem!r}, and its scheduler sets it as well",
                expected="one of the two",
                hint="remove the scheduler",
            )


def _source(
    path: tuple[str, ...], found: str, name: str, names: Sequence[str], parameter: str = ""
) -> Iterator[Diagnostic]:
    if found == name or found not in names:
        others = [one for one in names if one != name]
        near = nearest(found, others)
        message = f"problem {name!r} cannot read itself" if found == name else f"there is no problem {found!r}"
        yield Diagnostic(
            code="unknown-problem",
            field=path,
            message=message,
            expected=one_of(others) if others else "a problem above this one",
            hint=f"from: {near}{parameter and '.' + parameter}" if near else "",
        )


def parameter_diagnostics(path: tuple[str, ...], tuned: TunedSpec, names: Sequence[str]) -> Iterator[Diagnostic]:
    """A parameter that a problem does not have."""
    if tuned.parameter not in names:
        near = nearest(tuned.parameter, names)
        yield Diagnostic(
            code="unknown-parameter",
            field=path,
            message=f"problem {tuned.problem!r} has no parameter {tuned.parameter!r}",
            expected=one_of(names) if names else "a problem with parameters",
            hint=f"from: {tuned.problem}.{near}" if near else "",
        )


def _scheduled(problem: ProblemSpec) -> tuple[str, ...]:
    """Options that the problem's scheduler sets."""
    if problem.scheduler is None:
        return ()
    cycles = problem.scheduler.text.rpartition(".")[2] in ("OneCycleLR", "CyclicLR")
    return ("lr", "momentum") if cycles and problem.scheduler.args.get("cycle_momentum", True) else ("lr",)
