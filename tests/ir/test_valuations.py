"""Methods of valuation: their table, what they store, what they take, and which one the compiler chooses."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betty.ir.compile import compile_graph
from betty.ir.diagnostics import GraphError
from betty.ir.explain import explain
from betty.ir.graph import Edge, Graph, Problem, Settings
from betty.ir.passes.valuing import FEW_PARAMETERS, choose_valuation, fit_passes, score_passes, stored_size
from betty.ir.plan import Fit, Log, Score
from betty.ir.records import Weights
from betty.ir.text import parse_graph
from betty.ir.valuations import VALUATIONS, valuation
from tests.ir.programs import facts

LAYERS = ((32, 65), (10, 33), (10,))
KNOWN = Weights(likelihood="categorical", examples=1000, batch=50, queries=20, layers=LAYERS)


def program(name: str | None, weights: Weights = KNOWN, parameters: int = 2420) -> Graph:
    problems = (
        Problem(name="model", reads=("model",), optimizer="SGD", facts=facts(parameters)),
        Problem(name="values", reads=("model",), weights=weights),
    )
    edge = Edge(upper="values", lower="model", valuation=valuation(name) if name else None)
    return Graph("valued", problems, (edge,), Settings(iterations=100))


@pytest.mark.parametrize("name", VALUATIONS)
def test_every_method_is_planned_and_explained(name: str) -> None:
    compiled = compile_graph(program(name))
    then = compiled.plan.then
    assert then is not None
    ops = [item.op for item in then.instructions]
    assert ops == (["fit"] if fit_passes(valuation(name), KNOWN) else []) + ["log", "score"]
    assert all(item.estimate is not None and item.estimate.flops > 0 for item in then.instructions)
    assert f"gradients by {name}," in explain(compiled.plan, compiled.graph)
    assert [step.problem for step in compiled.plan] == ["model"]


@pytest.mark.parametrize("name", VALUATIONS)
def test_every_method_says_where_it_comes_from(name: str) -> None:
    declared = VALUATIONS[name]
    assert declared.summary and declared.source
    for option in declared.options.values():
        assert not option.choices or option.default in option.choices


def test_what_a_spec_writes_of_a_method() -> None:
    found = valuation("logra", {"rank": 64, "damping": 1})
    assert found.written() == {"name": "logra", "rank": 64, "damping": 1.0}
    assert found.brief() == "logra(rank=64, damping=1.0)"
    assert valuation("ekfac").brief() == "ekfac"


shapes = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=2).map(tuple), min_size=1, max_size=4)


@given(layers=shapes, rank=st.integers(1, 60))
def test_low_rank_is_never_more_than_the_whole(layers: list[tuple[int, ...]], rank: int) -> None:
    whole = stored_size(valuation("kfac"), layers)
    low = stored_size(valuation("logra", {"rank": rank}), layers)
    assert whole == sum(map(prod, layers))
    assert low <= min(whole, len(layers) * rank**2)
    assert stored_size(valuation("logra", {"rank": 50}), [shape for shape in layers if len(shape) == 2]) == sum(
        prod(shape) for shape in layers if len(shape) == 2
    )


@given(data=st.data(), layers=shapes, rank=st.integers(1, 60))
def test_a_layer_may_have_a_rank_of_its_own(data: st.DataObject, layers: list[tuple[int, ...]], rank: int) -> None:
    ranks = data.draw(st.lists(st.integers(0, 60), min_size=len(layers), max_size=len(layers)))
    each = [
        stored_size(valuation("logra", {"rank": one or rank}), [shape])
        for one, shape in zip(ranks, layers, strict=True)
    ]
    assert stored_size(valuation("logra", {"rank": rank}), layers, ranks=ranks) == sum(each)


def test_sizes_that_are_not_known() -> None:
    assert stored_size(valuation("identity"), (), 7) == 7
    assert stored_size(valuation("logra"), (), 7) == 0
    assert stored_size(valuation("trak", {"dimension": 9}), ()) == 9


@pytest.mark.parametrize(
    ("name", "options", "passes"),
    [
        ("identity", {}, 0),
        ("trak", {}, 0),
        ("kfac", {}, 1),
        ("kfac", {"fisher": "exact"}, 10),
        ("ekfac", {}, 2),
        ("logra", {}, 1),
        ("logra", {"fisher": "empirical"}, 0),
        ("logra", {"init": "pca", "fisher": "empirical"}, 1),
        ("logra", {"init": "ekfac"}, 3),
        ("fisher", {"fisher": "empirical"}, 0),
        ("fisher", {}, 1),
        ("gauss_newton", {}, 10),
        ("cg", {}, 0),
        ("arnoldi", {"iterations": 30}, 60),
    ],
)
def test_passes_of_statistics(name: str, options: dict[str, str | int], passes: int) -> None:
    assert fit_passes(valuation(name, options), KNOWN) == passes


@pytest.mark.parametrize("changes", [{"likelihood": ""}, {"tokens": True}])
def test_labels_that_cannot_be_drawn_take_no_pass(changes: dict[str, str | bool]) -> None:
    assert fit_passes(valuation("logra"), replace(KNOWN, **changes)) == 0  # type: ignore[arg-type]


def test_passes_of_queries() -> None:
    assert score_passes(valuation("cg", {"iterations": 7}), KNOWN) == 14
    assert score_passes(valuation("lissa", {"iterations": 40, "repeat": 3}), KNOWN) == 2 * 40 * 3 * 50 / 1000
    assert score_passes(valuation("logra"), KNOWN) == 0


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("fp32", 1000 * 2420 * 4), ("bf16", 1000 * 2420 * 2), ("fp64", 1000 * 2420 * 8), ("int8", 1000 * (2420 + 3 * 4))],
)
def test_bytes_of_the_store(dtype: str, stored: int) -> None:
    assert sum(map(prod, LAYERS)) == 2420
    then = compile_graph(program("ekfac", replace(KNOWN, dtype=dtype))).plan.then
    assert then is not None
    log = next(item for item in then.instructions if isinstance(item, Log))
    assert (log.stored, log.dtype) == (stored, dtype)
    assert log.estimate is not None and log.estimate.flops == 3_000_000 * 1000 // 50


def test_what_is_not_known_is_not_estimated() -> None:
    then = compile_graph(program("logra", Weights())).plan.then
    assert then is not None
    log, score = then.instructions
    assert isinstance(log, Log) and isinstance(score, Score)
    assert (log.stored, log.estimate, score.estimate) == (0, None, None)
    tokens = compile_graph(program("logra", replace(KNOWN, tokens=True))).plan.then
    assert tokens is not None and all(getattr(item, "stored", 0) == 0 for item in tokens.instructions)


def test_the_choice_by_size() -> None:
    small, great = facts(FEW_PARAMETERS), facts(FEW_PARAMETERS + 1)
    assert choose_valuation(Problem(name="a", facts=small))[0] == valuation("ekfac")
    method, reason = choose_valuation(Problem(name="a", facts=great))
    assert method == valuation("logra")
    assert "runner-up ekfac" in reason
    assert choose_valuation(Problem(name="a"))[0] == valuation("logra")


def test_what_holds_most_is_told() -> None:
    measured = replace(facts(2420), gradient_bytes=10_000)
    graph = program("ekfac").map(problem=lambda one: replace(one, facts=measured) if one.facts else one)
    peak = compile_graph(graph).plan.peak
    assert peak is not None
    assert (peak.problem, peak.op) == ("values", "log")


def test_a_method_that_is_not_there() -> None:
    text = 'graph "g"\n problem a\n problem b\n  weights\n edge b -> a flow=both valuation=logra(init="pac")'
    with pytest.raises(GraphError, match="'pac' is not a choice") as caught:
        parse_graph(text)
    assert "pca" in str(caught.value)
    with pytest.raises(GraphError, match="'lora' is not a valuation method"):
        parse_graph(text.replace("logra", "lora"))


def test_losses_do_not_name_weights() -> None:
    graph = program("logra").map(problem=lambda one: replace(one, reads=("model", "values")))
    with pytest.raises(GraphError) as caught:
        compile_graph(graph)
    assert [one.code for one in caught.value.diagnostics] == ["read-weights", "read-weights"]


def test_a_program_without_weights_is_what_it_was() -> None:
    graph = program("logra").trained
    assert graph.trained is graph
    assert graph.valued is None
    assert compile_graph(graph).plan.then is None
    assert Fit(problem="a", method=valuation("kfac")).op == "fit"
