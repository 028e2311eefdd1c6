"""Valuing: the method of an edge to example weights, and what is done by it once the lower is trained.

Work is counted in passes: the forward and backward pass of every training example. A product with the curvature of
the whole training loss takes about two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from betty.ir.graph import Edge, Graph, Problem
from betty.ir.plan import Estimate, Fit, Log, Score, Step
from betty.ir.quantities import amount
from betty.ir.records import Facts, Value, Weights
from betty.ir.valuations import ValuationMethod, valuation

FEW_PARAMETERS = 200_000
"""Parameters up to which ``auto`` stores whole gradients: 0.8 MB for one example at most."""
BYTES = {"fp32": 4, "bf16": 2, "int8": 1, "fp64": 8}
PRODUCT = 2
"""Passes of a product with the curvature of the training loss."""
EIGEN = 9
"""Floating-point operations for the eigenvectors of a matrix, by the cube of its rows."""

Layers = Sequence[tuple[int, ...]]


def choose_valuation(lower: Problem) -> tuple[ValuationMethod, str]:
    """What ``auto`` means for the examples of ``lower``, and why, with the runner-up."""
    whole, low_rank = valuation("ekfac"), valuation("logra")
    facts = lower.facts if lower.facts is not None and not lower.facts.note else None
    if facts is None:
        return low_rank, "lower of unknown size; low-rank gradients fit for any"
    size = amount(facts.parameters)
    many = f"gradients of {size} parameters are stored at low rank"
    few = f"gradients of {size} parameters can be stored whole"
    if facts.parameters <= FEW_PARAMETERS:
        return whole, f"{few}, which is more exact; runner-up {low_rank.brief()}: less to store"
    return low_rank, f"{many}; runner-up {whole.brief()}: more exact, and {size} numbers for each example"


def stored_size(method: ValuationMethod, layers: Layers, parameters: int = 0, ranks: Sequence[int] = ()) -> int:
    """Numbers stored for each example; 0 where that is not known.

    Args:
        method: Which.
        layers: Shapes of the layers' gradients.
        parameters: How many there are, where the shapes are not known.
        ranks: Of each layer, 0 for the method's; empty for the method's everywhere.
    """
    if method.solver.name == "trak":
        return int(method.solver["dimension"] or 0)
    if method.declared.ranked:
        return sum(_blocks(method, layers, ranks))
    return sum(map(prod, layers)) or parameters


def _blocks(method: ValuationMethod, layers: Layers, ranks: Sequence[int]) -> list[int]:
    """Numbers stored of each layer by a projection."""
    own = int(method.solver["rank"] or 0)
    return [_projected(shape, rank or own) for shape, rank in zip(layers, ranks or [0] * len(layers), strict=True)]


def _projected(shape: tuple[int, ...], rank: int) -> int:
    if len(shape) == 1:
        return min(shape[0], rank * rank)
    return min(rank, shape[0]) * min(rank, shape[1])


def fit_passes(method: ValuationMethod, weights: Weights) -> float:
    """Passes over the training examples that gather statistics, before gradients are stored."""
    name, options = method.solver.name, dict(method.solver.options)
    outputs = float(_outputs(weights.layers))
    draws = outputs if options.get("fisher") == "exact" else 1.0
    if name == "kfac":
        return draws
    if name == "ekfac":  # the eigenvalues along eigenvectors are taken in a pass of their own
        return 2 * draws
    if name == "logra":
        found = {"random": 0.0, "pca": 1.0, "ekfac": 2.0}[str(options["init"])]
        return found + (0.0 if _empirical(options, weights) else draws)
    if name == "fisher":
        return 0.0 if _empirical(options, weights) else draws
    if name == "gauss_newton":
        return outputs
    if name == "arnoldi":
        return float(PRODUCT * int(options["iterations"] or 0))
    return outputs if name == "dense" else 0.0


def _empirical(options: Mapping[str, Value], weights: Weights) -> bool:
    """Whether the Fisher information is that of the stored gradients themselves, which takes no pass of its own."""
    drawn = bool(weights.likelihood) and not weights.tokens
    return options.get("fisher") == "empirical" or (options.get("fisher") == "auto" and not drawn)


def _outputs(layers: Layers) -> int:
    """Outputs of the model: rows of its last layer."""
    return next((shape[0] for shape in reversed(layers) if len(shape) > 1), 1)


def score_passes(method: ValuationMethod, weights: Weights) -> float:
    """Passes over the training examples for each query."""
    options = dict(method.solver.options)
    if method.solver.name == "cg":
        return float(PRODUCT * int(options["iterations"] or 0))
    if method.solver.name == "lissa" and weights.examples:
        terms = int(options["iterations"] or 0) * int(options["repeat"] or 0)
        return PRODUCT * terms * weights.batch / weights.examples
    return 0.0


def valuing(graph: Graph, edge: Edge) -> Step:
    """What is done once the lower of ``edge`` is trained: its examples' gradients are logged and scored."""
    assert edge.valuation is not None
    upper, lower = graph.problem(edge.upper), graph.problem(edge.lower)
    assert upper.weights is not None
    found = _Estimates(edge.valuation, upper.weights, lower.facts)
    items = [found.fit(lower.name), found.log(edge), found.score(lower.name)]
    # What takes no pass over the data is no instruction of its own.
    kept = tuple(item for item in items if not isinstance(item, Fit) or item.passes)
    return Step(problem=upper.name, period=graph.settings.iterations, level=upper.level or 0, instructions=kept)


@dataclass(frozen=True)
class _Estimates:
    method: ValuationMethod
    weights: Weights
    facts: Facts | None

    @property
    def known(self) -> Facts | None:
        return self.facts if self.facts is not None and not self.facts.note else None

    @property
    def size(self) -> int:
        known = self.known
        weights = self.weights
        return stored_size(self.method, weights.layers, known.parameters if known else 0, weights.ranks)

    @property
    def pass_flops(self) -> float | None:
        """Of one pass over the training examples."""
        weights, known = self.weights, self.known
        if known is None or not weights.examples or not weights.batch:
            return None
        return known.step_flops * weights.examples / weights.batch

    @property
    def held(self) -> int:
        """Bytes of a batch's forward and backward pass."""
        known = self.known
        return known.gradient_bytes or known.saved_bytes + known.parameter_bytes if known else 0

    def _estimate(self, passes: float, more: float, held: int) -> Estimate | None:
        whole = self.pass_flops
        return None if whole is None else Estimate(flops=round(passes * whole + more), bytes=self.held + held)

    def fit(self, name: str) -> Fit:
        passes = fit_passes(self.method, self.weights)
        eigen, held = _statistics(self.method, self.weights, self.size)
        return Fit(problem=name, method=self.method, passes=passes, estimate=self._estimate(passes, eigen, 4 * held))

    def log(self, edge: Edge) -> Log:
        weights, size = self.weights, self.size
        # How many tokens a sequence has is not known before it is seen.
        examples = 0 if weights.tokens else weights.examples
        scales = 4 * max(1, len(weights.layers)) if weights.dtype == "int8" else 0
        return Log(
            problem=edge.lower,
            method=self.method,
            edge=edge.name,
            reason=edge.reason,
            examples=examples,
            size=size,
            dtype=weights.dtype,
            stored=examples * (size * BYTES[weights.dtype] + scales) if size else 0,
            estimate=self._estimate(1.0, 0.0, 4 * weights.batch * size),
        )

    def score(self, name: str) -> Score:
        weights, queries = self.weights, self.weights.queries
        passes = score_passes(self.method, weights)
        score = Score(problem=name, method=self.method, queries=queries, passes=passes)
        if not queries or not weights.examples or weights.tokens:
            return score
        own = queries / weights.examples  # the queries' gradients
        products = 2.0 * queries * weights.examples * self.size
        held = 4 * queries * (weights.examples + self.size)
        return replace(score, estimate=self._estimate(own + passes * queries, products, held))


def _statistics(method: ValuationMethod, weights: Weights, size: int) -> tuple[float, int]:
    """Work beside the passes, and numbers that are held."""
    name, layers = method.solver.name, weights.layers
    sides = [side for shape in layers for side in shape]
    if name in ("kfac", "ekfac") or (name == "logra" and method.solver["init"] != "random"):
        return EIGEN * float(sum(side**3 for side in sides)), sum(side**2 for side in sides) + size
    if name in ("fisher", "gauss_newton", "dense"):
        whole = name == "dense" or method.solver["block"] == "whole"
        blocks = [size] if whole else [prod(shape) for shape in layers] or [size]
        return EIGEN * float(sum(block**3 for block in blocks)), sum(block**2 for block in blocks)
    if name == "logra":
        blocks = _blocks(method, layers, weights.ranks)
        return EIGEN * float(sum(block**3 for block in blocks)), sum(block**2 for block in blocks)
    return 0.0, size * int(method.solver["iterations"] or 0) if name == "arnoldi" else 0
