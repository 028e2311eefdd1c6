"""A spec that values examples, taken apart: what is trained first, and what is asked of the trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from betty.ir.diagnostics import BettyError
from betty.ir.valuations import ValuationMethod
from betty.spec.frontend import Program
from betty.spec.resolve import ResolvedProblem
from betty.spec.signatures import BATCH, LossSignature
from betty.spec.weights import ExampleWeightsSpec

OfModel = Callable[[Any, Any], Any]
"""``(model, batch)``, in whatever way the function behind it takes its arguments."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A program that values examples.

    Args:
        lower: Name of the problem that is trained, and whose examples are valued.
        upper: Name of the example weights.
        method: How, as far as the spec says; ``None`` where the compiler chooses.
        weights: What the spec says of the lower's examples.
        training: The program without the weights, in which the lower's loss is the mean over its examples.
        losses: The training losses, one for each example.
        queries: The losses that are asked about, one for each query.
        outputs: The model's outputs; ``None`` where the spec has none.
    """

    lower: str
    upper: str
    method: ValuationMethod | None
    weights: ExampleWeightsSpec
    training: Program
    losses: OfModel
    queries: OfModel
    outputs: OfModel | None


def split(program: Program) -> Parts | None:
    """The parts of a program that has been imported; ``None`` where it values no examples."""
    edge, resolved = program.graph.valued, program.resolved
    if edge is None or resolved is None:
        return None
    spec = program.document.spec
    weights = spec.problems[edge.upper].example_weights
    assert weights is not None, "an edge is to example weights only where the spec has them"
    lower, upper = resolved.problems[edge.lower], resolved.problems[edge.upper]
    outputs = upper.outputs and of_model(upper.outputs, upper.outputs_signature, edge.lower)
    return Parts(
        lower=edge.lower,
        upper=edge.upper,
        method=edge.valuation,
        weights=weights,
        training=_training(program, edge.lower, lower),
        losses=apart(of_model(lower.loss, lower.signature, edge.lower)),
        queries=apart(of_model(upper.loss, upper.signature, edge.lower)),
        outputs=outputs,
    )


def _training(program: Program, name: str, lower: ResolvedProblem) -> Program:
    spec, resolved = program.document.spec, program.resolved
    assert resolved is not None
    alone = spec.model_copy(update={"problems": {name: spec.problems[name]}, "edges": []})
    loss = spec.problems[name].loss
    called = f"the loss of {name!r}" + (f" ({loss.text})" if loss else "")
    mean = replace(lower, loss=mean_of(lower.loss, called))
    return Program(
        document=replace(program.document, spec=alone),
        graph=program.graph.trained,
        resolved=replace(resolved, problems={name: mean}),
    )


def of_model(function: Callable[..., Any], signature: LossSignature | None, name: str) -> OfModel:
    """A function of the spec as one of the model and the batch; the model is the problem ``name``."""
    known = signature or LossSignature(batch=True, everything=True)
    reads = known.everything or name in known.reads

    def called(model: Any, batch: Any) -> Any:
        given = {BATCH: batch} if known.batch else {}
        return function(**given, **({name: model} if reads else {}))

    return called


def apart(function: OfModel) -> OfModel:
    """The losses alone of a loss that gives metrics beside them."""

    def losses(model: Any, batch: Any) -> Any:
        found = function(model, batch)
        return found["loss"] if isinstance(found, Mapping) else found

    return losses


def mean_of(loss: Callable[..., Any], called: str) -> Callable[..., Any]:
    """The mean of what ``loss`` gives, one number for each example, with its metrics beside it.

    Raises:
        BettyError: When it is called: it gives a single number.
    """

    def mean(**given: Any) -> Any:
        found = loss(**given)
        losses = found["loss"] if isinstance(found, Mapping) else found
        if not getattr(losses, "ndim", 0):
            raise BettyError(
                f"{called} gives a single number: expected one for each example, [examples], as they are valued; "
                "reduction='none' makes the losses of torch give it"
            )
        return {**found, "loss": losses.mean()} if isinstance(found, Mapping) else losses.mean()

    return mean
