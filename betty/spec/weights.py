"""Example weights: an upper that is one weight for each training example of the problem below, and never trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from betty.ir.diagnostics import Diagnostic, listing
from betty.ir.records import Flow
from betty.ir.valuations import ValuationMethod
from betty.spec.fields import SpecModel, Target

if TYPE_CHECKING:
    from betty.spec.fit import Fitted
    from betty.spec.models import EdgeSpec, ProblemSpec, Spec

ALLOWED = ("example_weights", "loss", "data", "precision")
"""Fields of a problem that is example weights."""


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class ExampleWeightsSpec(SpecModel):
    """What is known of the problem whose examples are weighed; `{}` for nothing."""

    likelihood: Literal["categorical", "gaussian", "bernoulli"] | None = Field(
        default=None,
        description="Of what the `outputs` are the logits, or the mean; labels can then be drawn from the model.",
    )
    outputs: Target | None = Field(
        default=None,
        description="Gives the model's outputs, `[examples, ..., d]`: a function of the batch as `batch` and of the "
        "problem below by its name.",
    )
    scale: float = Field(
        default=1.0,
        gt=0,
        description="Of a gaussian: the loss is this times half the squared distance from the mean, 2 for its square.",
    )
    layers: Annotated[list[str] | None, BeforeValidator(_listed)] = Field(
        default=None,
        description="Parts of the module that are valued: names, or patterns such as `layers.*`; all where empty.",
    )
    ranks: dict[str, Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        description="Of `logra`: names of parts, or patterns such as `layers.*`, and the rank of each. The first that "
        "fits counts; others have the method's `rank`.",
    )
    dtype: Literal["fp32", "bf16", "int8", "fp64"] = Field(
        default="fp32", description="Of the stored gradients; `int8` has a scale for each example and layer."
    )
    tokens: bool = Field(
        default=False, description="Whether every token is an example of its own; losses are then `[examples, tokens]`."
    )
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="Of the training loss, half of it times the squared parameters; that of the optimiser's option "
        "where empty, unless it is decoupled from the loss as AdamW's.",
    )


def weights_diagnostics(spec: Spec, fitted: Fitted, names: Sequence[str]) -> Iterator[Diagnostic]:
    """Everything wrong with example weights that needs no import; nothing in a program that has none."""
    weights = [name for name, problem in spec.problems.items() if problem.example_weights is not None]
    for name in weights:
        yield from _own(name, spec.problems[name], fitted)
        yield from _edges(name, spec, fitted)
    if weights:
        yield from _others(weights[0], spec, fitted, names)


def _own(name: str, problem: ProblemSpec, fitted: Fitted) -> Iterator[Diagnostic]:
    path = ("problems", name)
    for field, info in type(problem).model_fields.items():
        given = getattr(problem, field) != info.get_default(call_default_factory=True)
        if given and field not in ALLOWED:
            yield Diagnostic(
                code="unfit-field",
                field=(*path, field),
                message=f"{name!r} is one weight for each example, which is not trained: it has no {field}",
                expected=f"{listing(ALLOWED)} alone",
                hint=f"remove {field}",
            )
    weights = problem.example_weights
    assert weights is not None
    inside = (*path, "example_weights")
    pairs = (("likelihood", "outputs"), ("outputs", "likelihood"))
    for one, other in pairs:
        if (
            getattr(weights, one) is not None
            and getattr(weights, other) is None
            and not fitted.touched((*inside, other))
        ):
            yield Diagnostic(
                code="needs-field",
                field=(*inside, one),
                message=f"{one} of {name!r} is given without {other}",
                expected="both, or neither",
                hint="outputs: program:logits" if other == "outputs" else "likelihood: categorical",
            )


def _edges(name: str, spec: Spec, fitted: Fitted) -> Iterator[Diagnostic]:
    placed = list(zip(fitted.edges, spec.edges, strict=True))
    own = [(index, edge) for index, edge in placed if edge.upper == name]
    for index, edge in placed:
        if edge.lower == name and edge.upper != name:
            yield Diagnostic(
                code="unfit-edge",
                field=("edges", index, "lower"),
                message=f"{name!r} is example weights, which answer to no upper",
                expected="the problem whose examples are weighed as lower",
                hint=f"{{upper: {name}, lower: {edge.upper}}}",
            )
    if not own and not fitted.without_edges:
        others = [one for one in spec.problems if one != name]
        yield Diagnostic(
            code="missing-edge",
            field=("problems", name, "example_weights"),
            message=f"no edge says whose examples {name!r} weighs",
            expected=f"one edge with upper: {name}",
            hint=f"edges: - {{upper: {name}, lower: {others[0]}}}" if len(others) == 1 else "",
        )
    for index, _ in own[1:]:
        yield Diagnostic(
            code="unfit-edge",
            field=("edges", index, "upper"),
            message=f"a second edge from the example weights {name!r}",
            expected=f"one edge; the first is edges[{own[0][0]}]",
            hint="remove one of the two",
        )
    for index, edge in own[:1]:
        yield from _edge(name, index, edge, spec, fitted)


def _edge(name: str, index: int, edge: EdgeSpec, spec: Spec, fitted: Fitted) -> Iterator[Diagnostic]:
    if edge.flow is not Flow.BOTH:
        yield Diagnostic(
            code="unfit-flow",
            field=("edges", index, "flow"),
            message=f"flow {edge.flow.value!r}: example weights weigh the lower's losses and read its solution",
            expected="both, which is the default",
            hint="flow: both",
        )
    lower = spec.problems.get(edge.lower)
    weights = spec.problems[name].example_weights
    if lower is None or weights is None:
        return
    if lower.data is None and not fitted.touched(("problems", edge.lower, "data")):
        yield Diagnostic(
            code="needs-field",
            field=("problems", edge.lower),
            message=f"{edge.lower!r} has no data, whose examples {name!r} could weigh",
            expected="data: a data set",
        )
    if name in lower.update_reads:
        yield Diagnostic(
            code="read-weights",
            field=("problems", edge.lower),
            message=f"the updates of {edge.lower!r} read {name!r}, which are example weights and have no parameters",
            expected="another problem",
        )
    method = None if fitted.touched(("edges", index, "method")) else edge.to_valuation()
    if weights.ranks and method is not None and not method.declared.ranked:
        yield Diagnostic(
            code="unfit-field",
            field=("problems", name, "example_weights", "ranks"),
            message=f"ranks are of projections, and {method.brief()!r} has none",
            expected="method: logra",
            hint="remove ranks",
        )
    bare = weights.outputs is None and not fitted.touched(("problems", name, "example_weights"))
    if method is not None and bare and needs_outputs(method):
        yield Diagnostic(
            code="needs-field",
            field=("edges", index, "method"),
            message=f"{method.brief()!r} needs the model's outputs and their likelihood",
            expected=f"likelihood and outputs in the example_weights of {name}, or another method",
            hint="example_weights: {likelihood: categorical, outputs: program:logits}",
        )


def needs_outputs(method: ValuationMethod) -> bool:
    """Whether a method takes derivatives by the model's outputs, or draws labels from them."""
    options = dict(method.solver.options)
    exact = options.get("fisher") in ("sampled", "exact")
    return exact or method.solver.name == "gauss_newton" or options.get("curvature") == "gauss_newton"


def _others(name: str, spec: Spec, fitted: Fitted, names: Sequence[str]) -> Iterator[Diagnostic]:
    """Problems beside the weights and the one whose examples they weigh."""
    found = (edge.lower for edge in spec.edges if edge.upper == name and edge.lower in names and edge.lower != name)
    lower = next(found, None)
    others = [one for one in spec.problems if one not in (name, lower)]
    if lower is None and len(others) < 2:
        return
    for one in others:
        yield Diagnostic(
            code="unfit-problem",
            field=("problems", one),
            message=f"{one!r} stands beside the example weights {name!r}" + (f" and {lower!r}" if lower else ""),
            expected="two problems: the weights, and the one whose examples they weigh",
            hint=f"remove {one}, or value its examples in a spec of their own",
        )
