"""Programs that the golden files show, each for something that only it has."""

from __future__ import annotations

from betty.ir.graph import Edge, Graph, Problem, Settings
from betty.ir.methods import Method, preset
from betty.ir.records import Facts, Flow, Weights

UP, DOWN, BOTH = Flow.UP, Flow.DOWN, Flow.BOTH
CG, NEUMANN, DARTS = preset("cg"), preset("neumann"), preset("finite_difference")


def facts(parameters: int, flops: int = 1_000_000, saved: int = 50_000, note: str = "") -> Facts:
    """A loss with ``flops`` forward and twice as many backward, in single precision, updated with momentum."""
    return Facts(
        parameters=parameters,
        parameter_bytes=4 * parameters,
        state_bytes=4 * parameters,
        forward_flops=flops,
        backward_flops=2 * flops,
        saved_bytes=saved,
        note=note,
    )


def edge(upper: str, lower: str, flow: Flow = BOTH, method: Method | None = None) -> Edge:
    return Edge(upper=upper, lower=lower, flow=flow, method=method)


def chain(length: int, flow: Flow, method: Method | None = CG) -> Graph:
    """``p0`` at the bottom, each problem below the next."""
    problems = tuple(Problem(name=f"p{index}", optimizer="SGD") for index in range(length))
    edges = (edge(f"p{index + 1}", f"p{index}", flow, method) for index in range(length - 1))
    return Graph("chain", problems, tuple(edges))


def diamonds(count: int) -> Graph:
    """``count`` diamonds in a row: ``4 count + 2`` edges, and ``2 ** count`` paths from the bottom to the top."""
    names, edges = ["b0"], [edge("top", "b0", DOWN, CG)]
    for index in range(count):
        below, left, right, above = f"b{index}", f"left{index}", f"right{index}", f"b{index + 1}"
        names += [left, right, above]
        pairs = ((left, below), (right, below), (above, left), (above, right))
        edges += [edge(upper, lower, UP, CG) for upper, lower in pairs]
    edges.append(edge("top", names[-1], UP, CG))
    return Graph("diamonds", tuple(Problem(name=name, optimizer="SGD") for name in (*names, "top")), tuple(edges))


def _two_level() -> Graph:
    classifier = Problem(
        name="classifier",
        loss="program:weighted_loss",
        reads=("classifier", "weigher"),
        optimizer="SGD",
        facts=facts(270_000),
    )
    weigher = Problem(
        name="weigher", loss="program:clean_loss", reads=("classifier",), optimizer="Adam", facts=facts(64)
    )
    settings = Settings(iterations=1000, seed=3)
    return Graph("learning-to-reweight", (classifier, weigher), (edge("weigher", "classifier"),), settings)


def _three_level() -> Graph:
    problems = (
        Problem(name="pretrain", optimizer="SGD", unroll=2, facts=facts(15_000)),
        Problem(name="finetune", optimizer="AdamW", facts=facts(4_160)),
        Problem(name="reweight", optimizer="Adam", facts=facts(64)),
    )
    edges = (
        edge("finetune", "pretrain", method=NEUMANN),
        edge("reweight", "finetune", method=CG),
        edge("reweight", "pretrain", method=DARTS),
    )
    return Graph("three levels that read each other", problems, edges, Settings(iterations=50))


def _up_chain() -> Graph:
    graph = chain(4, UP)
    return Graph("up-chain", graph.problems, (*graph.edges, edge("p3", "p0", DOWN, NEUMANN)))


def _several_uppers() -> Graph:
    """``shared`` answers ``left`` by one method and ``right`` by another; seen from ``top`` that takes two solves."""
    names = ("base", "shared", "left", "right", "top")
    edges = (
        edge("shared", "base", method=CG),
        edge("left", "shared", UP, CG),
        edge("right", "shared", UP, NEUMANN),
        edge("top", "left", method=CG),
        edge("top", "right", method=DARTS),
        edge("top", "base", DOWN, CG),
    )
    return Graph("several-uppers", tuple(Problem(name=name, optimizer="SGD") for name in names), edges)


def _paced() -> Graph:
    problems = (
        Problem(name="inner loop", optimizer="SGD", unroll=5, accumulation=4, warm_up=100, facts=facts(300, note="")),
        Problem(name="other", optimizer="Adam", unroll=2, precision="fp64", gradient_clipping=1.5),
        Problem(name="outer", optimizer="Adam", unroll=3),
        Problem(name="score"),
    )
    edges = (
        edge("outer", "inner loop", method=preset("unrolled")),
        edge("outer", "other", UP, CG),
        edge("score", "outer", UP, CG),
    )
    return Graph("paced", problems, edges, Settings(iterations=120, device="cuda:0", precision="bf16"))


def _auto() -> Graph:
    problems = (
        Problem(name="small", optimizer="SGD", unroll=25, facts=facts(300)),
        Problem(name="short", optimizer="Adam", unroll=4, facts=facts(300)),
        Problem(name="large", optimizer="SGD", facts=facts(3_000_000)),
        Problem(name="untraced", optimizer="SGD", facts=facts(0, note="needs a batch")),
        Problem(name="unknown", optimizer="SGD"),
        Problem(name="top", optimizer="Adam", facts=facts(10)),
    )
    return Graph("auto", problems, tuple(edge("top", problem.name) for problem in problems[:-1]))


def _four_level() -> Graph:
    problems = tuple(
        Problem(name=name, optimizer="SGD", unroll=unroll, facts=facts(size))
        for name, unroll, size in (("weights", 1, 9_000), ("style", 2, 400), ("augment", 3, 90), ("schedule", 1, 7))
    )
    edges = (
        edge("style", "weights", method=CG),
        edge("augment", "style", UP, CG),
        edge("augment", "weights", DOWN, NEUMANN),
        edge("schedule", "augment", method=DARTS),
        edge("schedule", "weights", UP, CG),
    )
    return Graph("four-level", problems, edges, Settings(iterations=600))


def _valued() -> Graph:
    """A classifier whose examples are valued, by a method that the compiler chooses."""
    classifier = Problem(
        name="classifier",
        loss="program:losses",
        reads=("classifier",),
        optimizer="SGD",
        facts=facts(270_000),
    )
    weights = Weights(
        likelihood="categorical", dtype="bf16", examples=50_000, batch=100, queries=500, layers=((400, 650), (10, 401))
    )
    values = Problem(name="values", loss="program:losses", reads=("classifier",), weights=weights)
    return Graph("valued", (classifier, values), (edge("values", "classifier"),), Settings(iterations=1000))


PROGRAMS: dict[str, Graph] = {
    "two_level": _two_level(),
    "three_level": _three_level(),
    "up_chain": _up_chain(),
    "diamond": diamonds(1),
    "several_uppers": _several_uppers(),
    "paced": _paced(),
    "auto": _auto(),
    "four_level": _four_level(),
    "valued": _valued(),
}
