"""Random graphs, plans and programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import strategies as st

from betty.ir.graph import Edge, Graph, Problem, Settings
from betty.ir.methods import INVERSES, PRODUCTS, TRAJECTORIES, Declared, Method, preset
from betty.ir.plan import Differentiate, Draw, Estimate, Fit, Instruction, Log, Plan, Respond, Score, Step, Update
from betty.ir.records import Call, Facts, Flow, Weights
from betty.ir.valuations import VALUATIONS, ValuationMethod

texts = st.text(max_size=8) | st.sampled_from(["a b", "it's", 'say "x"', "two\nlines", "->", "θ", "a'", "a#2", "1"])
whole = st.integers(0, 10**12)
numbers = st.floats(allow_nan=False)


def calls(table: Mapping[str, Declared]) -> st.SearchStrategy[Call]:
    """A row of the table with random values for all its options."""

    def options(name: str) -> st.SearchStrategy[Call]:
        kinds = {float: numbers, int: whole, bool: st.booleans(), str: texts}
        values = [
            st.tuples(st.just(key), st.sampled_from(option.choices) if option.choices else kinds[option.kind])
            for key, option in table[name].options.items()
        ]
        return st.tuples(*values).map(lambda found: Call(name=name, options=found))

    return st.sampled_from(sorted(table)).flatmap(options)


methods = st.one_of(
    calls(TRAJECTORIES).map(lambda solver: Method(solver=solver)),
    st.tuples(calls(INVERSES), calls(PRODUCTS)).map(lambda both: Method(solver=both[0], product=both[1])),
)
valuations = calls(VALUATIONS).map(lambda solver: ValuationMethod(solver=solver))
weights = st.builds(
    Weights,
    likelihood=texts,
    dtype=texts,
    tokens=st.booleans(),
    examples=whole,
    batch=whole,
    queries=whole,
    layers=st.lists(st.lists(whole, max_size=2).map(tuple), max_size=3).map(tuple),
)
facts = st.builds(
    Facts,
    parameters=whole,
    parameter_bytes=whole,
    state_bytes=whole,
    forward_flops=whole,
    backward_flops=whole,
    saved_bytes=whole,
    twice=st.booleans(),
    note=texts,
)


def problems(name: str) -> st.SearchStrategy[Problem]:
    return st.builds(
        Problem,
        name=st.just(name),
        loss=texts,
        reads=st.none() | st.lists(texts, max_size=3).map(tuple),
        optimizer=texts,
        unroll=st.integers(1, 9),
        accumulation=st.integers(1, 9),
        warm_up=whole,
        precision=texts,
        gradient_clipping=st.none() | numbers,
        facts=st.none() | facts,
        weights=st.none() | weights,
        level=st.none() | st.integers(0, 9),
        period=st.none() | whole,
    )


settings_of_graphs = st.builds(
    Settings,
    iterations=whole,
    device=texts,
    precision=texts,
    seed=whole,
    roll_back=st.booleans(),
    strategy=texts,
    memory=st.none() | whole,
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any graph, legal at no stage in particular: cycles, levels here and there, methods on some edges."""
    names = draw(st.lists(texts, max_size=5, unique=True))
    pairs = [(upper, lower) for upper in names for lower in names if upper != lower]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=8)) if pairs else []
    edges = [
        draw(
            st.builds(
                Edge,
                upper=st.just(upper),
                lower=st.just(lower),
                flow=st.sampled_from(Flow),
                method=st.none() | methods,
                valuation=st.none() | valuations,
                reason=texts,
            )
        )
        for upper, lower in chosen
    ]
    made = tuple(draw(problems(name)) for name in names)
    return Graph(draw(texts), made, tuple(edges), draw(settings_of_graphs))


estimates = st.none() | st.builds(Estimate, flops=whole, bytes=whole)
pairs_of_slots = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
instructions: st.SearchStrategy[Instruction] = st.one_of(
    st.builds(Draw, keep=whole, estimate=estimates),
    st.builds(Differentiate, adjoints=pairs_of_slots, estimate=estimates),
    st.builds(
        Respond,
        problem=texts,
        slot=texts,
        method=methods,
        into=pairs_of_slots,
        edge=texts,
        reason=texts,
        estimate=estimates,
    ),
    st.builds(Update, optimizer=texts, every=whole, tape=whole, estimate=estimates),
    st.builds(Fit, problem=texts, method=valuations, passes=numbers, estimate=estimates),
    st.builds(
        Log,
        problem=texts,
        method=valuations,
        edge=texts,
        reason=texts,
        passes=numbers,
        examples=whole,
        size=whole,
        dtype=texts,
        stored=whole,
        estimate=estimates,
    ),
    st.builds(Score, problem=texts, method=valuations, queries=whole, passes=numbers, estimate=estimates),
)


def steps(name: str) -> st.SearchStrategy[Step]:
    return st.builds(
        Step,
        problem=st.just(name),
        period=whole,
        level=whole,
        after=st.lists(st.tuples(texts, whole), max_size=2).map(tuple),
        instructions=st.lists(instructions, max_size=5).map(tuple),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = draw(st.lists(texts, max_size=3, unique=True))
    stepping, last = (names[:-1], names[-1]) if len(names) == 3 else (names, None)
    return Plan(
        name=draw(texts),
        iterations=draw(whole),
        device=draw(texts),
        precision=draw(texts),
        seed=draw(whole),
        edges=draw(whole),
        steps=tuple(draw(steps(name)) for name in stepping),
        then=draw(steps(last)) if last is not None else None,
    )


OF_EDGES = tuple(preset(name) for name in ("cg", "neumann", "finite_difference"))


@st.composite
def programs(
    draw: st.DrawFn, flows: Callable[[st.DrawFn, int, int], Flow] | None = None, most: int = 7, unroll: int = 1
) -> Graph:
    """A program ``p0`` .. ``pn`` whose edges rise; every problem but the first is upper to some other.

    ``flows`` says in which way an edge (upper, lower) flows, given as numbers; by default in any.
    """
    count = draw(st.integers(2, most))
    flow = flows or (lambda draw, upper, lower: draw(st.sampled_from(Flow)))
    edges = [
        Edge(
            upper=f"p{upper}",
            lower=f"p{lower}",
            flow=flow(draw, upper, lower),
            method=draw(st.sampled_from(OF_EDGES)),
        )
        for upper in range(1, count)
        for lower in draw(st.sets(st.integers(0, upper - 1), min_size=1, max_size=3).map(sorted))
    ]
    paces = st.integers(1, unroll)
    made = [
        Problem(name=f"p{index}", optimizer="SGD", unroll=draw(paces), accumulation=draw(paces))
        for index in range(count)
    ]
    return Graph("random", tuple(made), tuple(edges))


@st.composite
def programs_without_knots(draw: st.DrawFn) -> Graph:
    """Who reads whom follows one random order, so that nobody is read back; edges of the last problem flow anyhow."""
    place = draw(st.permutations(range(7)))

    def flow(draw: st.DrawFn, upper: int, lower: int) -> Flow:
        return Flow.UP if place[upper] < place[lower] else Flow.DOWN

    graph = draw(programs(flows=flow))
    last = graph.problems[-1].name
    edges = tuple(
        Edge(upper=last, lower=edge.lower, flow=draw(st.sampled_from(Flow)), method=edge.method)
        if edge.upper == last
        else edge
        for edge in graph.edges
    )
    return Graph(graph.name, graph.problems, edges)
