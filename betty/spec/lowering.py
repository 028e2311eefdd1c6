"""From a checked spec to the compiler's graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from betty.ir.diagnostics import Diagnostic
from betty.ir.graph import SINGLE, Edge, Graph, Problem, Settings
from betty.ir.records import Weights
from betty.spec.checks import kept_edges
from betty.spec.fit import Fitted
from betty.spec.load import Document, Draft
from betty.spec.models import EdgeSpec, EngineSpec, ProblemSpec
from betty.spec.signatures import LossSignature
from betty.spec.weights import ExampleWeightsSpec

Signatures = Mapping[str, LossSignature | None]
Diagnose = Callable[[Graph], Iterable[Diagnostic]]
# Findings that a missing edge or problem causes by itself, so that they mean nothing where one was dropped.
NEED_ALL_EDGES = {"undeclared-read", "unanswered-upper"}


@dataclass(frozen=True)
class Lowered:
    """A graph and, for each of its edges, the index in the spec.

    Args:
        graph: The graph of everything that could be kept.
        edges: Indices of its edges in the spec as written.
        whole: Whether every edge and problem of the spec is in it.
    """

    graph: Graph
    edges: tuple[int, ...]
    whole: bool


def to_graph(document: Document, signatures: Signatures) -> Graph:
    """The graph that ``document`` declares; ``signatures`` tell what each loss reads, as far as known."""
    indices = tuple(range(len(document.spec.edges)))
    return lower(document, Fitted(document.spec, edges=indices), signatures).graph


def lower(document: Document, fitted: Fitted, signatures: Signatures) -> Lowered:
    """The graph of those problems and edges that are sound."""
    spec = document.spec
    kept = kept_edges(spec, fitted)
    problems = [_problem(name, problem, spec.engine, signatures.get(name)) for name, problem in spec.problems.items()]
    edges = [_edge(one.edge, spec.problems[one.edge.upper]) for one in kept]
    graph = Graph(spec.name, tuple(problems), tuple(edges), _settings(spec.engine))
    declared = document.data.get("edges")
    written = len(declared) if isinstance(declared, list) else len(spec.edges)
    whole = len(kept) == written and len(problems) == len(document.names) and not fitted.without_edges
    return Lowered(graph, tuple(one.index for one in kept), whole)


def graph_diagnostics(draft: Draft, lowered: Lowered, diagnose: Diagnose) -> Iterator[Diagnostic]:
    """What ``diagnose`` finds, with the spec's own indices and without what other mistakes cause."""
    for found in diagnose(lowered.graph):
        wrong = _renumbered(found, lowered)
        if wrong.code in NEED_ALL_EDGES and not lowered.whole:
            continue
        if wrong.field[:1] == ("edges",) and draft.fitted.touched((*wrong.field[:2], "flow")) and wrong.code != "cycle":
            continue
        yield wrong


def _renumbered(found: Diagnostic, lowered: Lowered) -> Diagnostic:
    if found.field[:1] == ("edges",) and len(found.field) > 1:
        return replace(found, field=("edges", lowered.edges[int(found.field[1])], *found.field[2:]))
    return found


def _edge(edge: EdgeSpec, upper: ProblemSpec) -> Edge:
    weights = upper.example_weights is not None
    return Edge(
        upper=edge.upper,
        lower=edge.lower,
        flow=edge.flow,
        method=None if weights else edge.to_method(),
        valuation=edge.to_valuation() if weights else None,
    )


def _weights(weights: ExampleWeightsSpec | None) -> Weights | None:
    if weights is None:
        return None
    return Weights(likelihood=weights.likelihood or "", dtype=weights.dtype, tokens=weights.tokens)


def _problem(name: str, problem: ProblemSpec, engine: EngineSpec, signature: LossSignature | None) -> Problem:
    return Problem(
        name=name,
        loss=problem.loss.text if problem.loss else "",
        reads=signature.known if signature else None,
        update_reads=problem.update_reads,
        optimizer=problem.optimizer.text.replace(":", ".").rpartition(".")[2] if problem.optimizer else "",
        unroll=problem.unroll,
        accumulation=problem.gradient_accumulation,
        warm_up=problem.warm_up,
        precision=problem.precision or engine.precision,
        gradient_clipping=problem.gradient_clipping,
        recomputes=bool(problem.activation_checkpointing),
        weights=_weights(problem.example_weights),
    )


def _settings(engine: EngineSpec) -> Settings:
    return Settings(
        iterations=engine.iterations,
        device=engine.device,
        precision=engine.precision,
        seed=engine.seed,
        roll_back=engine.roll_back,
        strategy=SINGLE if engine.strategy == "auto" else engine.strategy,
        local_adjoints=engine.adjoints == "local",
        memory=engine.memory,
        compile=engine.compiler,
    )
