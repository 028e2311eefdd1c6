"""What a plan does once its lower is trained, where it values examples: the rows and lines of the explanation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from betty.ir.plan import Estimate, Fit, Instruction, Log, Plan, Score, Step
from betty.ir.quantities import amount, bytes_text, flops_text, plural, three_digits, time_text
from betty.ir.rows import Row, because
from betty.ir.valuations import ValuationMethod

GATHERED = {
    "kfac": "covariances of layers",
    "ekfac": "covariances of layers, then eigenvalues along their eigenvectors",
    "fisher": "Fisher information",
    "gauss_newton": "Gauss-Newton blocks",
    "dense": "the whole curvature",
    "arnoldi": "eigenvectors of the whole curvature",
}
PROJECTIONS = {"pca": "covariances of layers", "ekfac": "eigenvectors of layers"}


def valuing_rows(step: Step, units: Mapping[str, int]) -> Iterator[Row]:
    """The rows of what is done last; work in steps of the problem in ``units`` whose examples are valued."""
    queries = next((item.queries for item in step.instructions if isinstance(item, Score)), 0)
    log = next(item for item in step.instructions if isinstance(item, Log))
    counts = [plural(log.examples, "example")] if log.examples else []
    counts += [plural(queries, "query")] if queries else []
    what = f"weights of the examples of {log.problem}: logged and scored, not trained"
    yield Row(who=step.problem, when="at the end", what=what, size=", ".join(counts))
    for item in step.instructions:
        cost = _cost(item.estimate, units)
        if isinstance(item, Fit):
            yield Row(who="  fit", when=_passes(item.passes), what=_gathered(item.method), cost=cost)
        elif isinstance(item, Log):
            yield Row(who="  log", when=_passes(item.passes), what=_stored(item), cost=cost)
            yield from because(item.reason)
        elif isinstance(item, Score):
            yield Row(who="  score", when=_each(item.passes), what=_answered(item.method), cost=cost)


def _cost(estimate: Estimate | None, units: Mapping[str, int]) -> tuple[str, str]:
    if estimate is None:
        return "?", "?"
    unit = next(iter(units.values()), 0)
    work = f"≈ {estimate.flops / unit:,.1f} steps" if unit else flops_text(estimate.flops)
    return work, bytes_text(estimate.bytes)


def _passes(count: float) -> str:
    return "1 pass" if count == 1 else f"{three_digits(count)} passes"


def _each(count: float) -> str:
    return f"{_passes(count)} a query" if count else ""


def _gathered(method: ValuationMethod) -> str:
    if method.solver.name != "logra":
        return GATHERED[method.solver.name]
    first = PROJECTIONS.get(str(method.solver["init"]), "")
    return ", then ".join([*([first] if first else []), "Fisher information at low rank"])


def _stored(item: Log) -> str:
    size = f", {plural(item.size, 'number')} for each example in {item.dtype}" if item.size else f", in {item.dtype}"
    return f"gradients by {item.method.brief()}{size}"


def _answered(method: ValuationMethod) -> str:
    if method.solver.name == "cosine":
        return "cosines with the stored gradients"
    if not method.declared.curvature:
        return "products with the stored gradients"
    how = "solve" if method.declared.solves else "inverse"
    return f"gradient -> {method.solver.name} {how} -> product with the stored gradients"


def valuing_lines(plan: Plan) -> Iterator[str]:
    """What logging leaves on disk, and how it compares with the training; nothing for programs that only train."""
    if plan.then is None:
        return
    log = next(item for item in plan.then.instructions if isinstance(item, Log))
    if log.stored:
        yield (
            f"store ≈ {bytes_text(log.stored)} on disk: {plural(log.examples, 'example')} × "
            f"{plural(log.size, 'number')} in {log.dtype}"
        )
    logging = [item.estimate.flops for item in plan.then.instructions if _logs(item) and item.estimate]
    unit = sum(item.estimate.flops for step in plan for item in step.instructions if item.estimate)
    if logging and unit:
        training = plan.iterations * unit
        yield (
            f"fitting and logging ≈ {amount(round(sum(logging) / unit))} steps of {log.problem}, "
            f"{sum(logging) / training:,.0%} of the work of its training"
        )


def _logs(item: Instruction) -> bool:
    return isinstance(item, Fit | Log)


def time_line(plan: Plan, seconds: float) -> str:
    """How long fitting, logging and scoring are expected to take; empty where no trace was made.

    Args:
        plan: With its estimates.
        seconds: Of the forward and backward pass of one micro-batch, as measured.
    """
    unit = sum(item.estimate.flops for step in plan for item in step.instructions if item.estimate)
    items = plan.then.instructions if plan.then is not None else ()
    known = [(item, item.estimate.flops) for item in items if item.estimate is not None]
    if not unit or not known:
        return ""
    logging = sum(flops for item, flops in known if _logs(item)) / unit * seconds
    scoring = [flops / unit * seconds for item, flops in known if isinstance(item, Score)]
    parts = [f"{_duration(logging)} to fit and log", *(f"{_duration(one)} to score" for one in scoring)]
    return f"time ≈ {', '.join(parts)}, at {time_text(seconds)} for a forward and backward pass, as measured here"


def _duration(seconds: float) -> str:
    return time_text(seconds) if seconds < 1 else f"{three_digits(seconds)} s"
