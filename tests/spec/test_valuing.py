"""Specs that value examples: what they may say, what is wrong with them, and what becomes of one that is right."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy

from betty import Engine
from betty.backends.torch.errors import RunError
from betty.ir.diagnostics import BettyError, SpecError
from betty.ir.plan import Fit, Log, Score
from betty.ir.text import parse_plan, plan_to_text
from betty.ir.valuations import valuation
from betty.spec.dump import to_yaml
from betty.spec.frontend import compile_source
from betty.spec.load import load
from betty.spec.models import EdgeSpec
from betty.spec.schema import json_schema
from betty.spec.valuing import mean_of, split
from betty.valued import Valued
from betty.weighted import decay_of

PROGRAM = """\
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset


def net():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def data(count, seed):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(1))


def training():
    return data(22, 0)


def queries():
    return data(5, 1)


def others():
    return data(2, 2)


def logits(batch, classifier):
    return classifier(batch[0])


def losses(batch, classifier):
    return cross_entropy(classifier(batch[0]), batch[1], reduction="none")


def with_metrics(batch, classifier):
    return {"loss": losses(batch, classifier), "seven": 7.0}


def one_loss(batch, classifier):
    return losses(batch, classifier).mean()


def weighted(batch, classifier, values):
    return losses(batch, classifier)


def measured(classifier):
    return {"three": 3.0}


def misread(classifier, values):
    return {"three": 3.0}
"""
SPEC: dict[str, Any] = {
    "name": "valued",
    "problems": {
        "classifier": {
            "module": "program:net",
            "loss": "program:losses",
            "data": {"target": "program:training", "batch_size": 4, "drop_last": True},
            "optimizer": {"target": "torch.optim.SGD", "lr": 0.3, "weight_decay": 0.01},
        },
        "values": {
            "example_weights": {"likelihood": "categorical", "outputs": "program:logits"},
            "loss": "program:losses",
            "data": {"target": "program:queries", "batch_size": 2},
        },
    },
    "edges": [{"upper": "values", "lower": "classifier", "method": {"name": "logra", "rank": 2}}],
    "engine": {"device": "cpu", "iterations": 8},
}
METHOD = "edges.0.method"
WEIGHTS = "problems.values.example_weights"


@pytest.fixture(autouse=True)
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The spec with the value at each path replaced; ``...`` removes it."""
    spec = copy.deepcopy(SPEC)
    for path, value in changes:
        *front, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place: Any = spec
        for part in front:
            place = place[part]
        if value is ...:
            del place[last]
        elif isinstance(place, list) and last == len(place):
            place.append(value)
        else:
            place[last] = value
    return spec


def written(spec: dict[str, Any]) -> Path:
    path = Path("spec.yaml")
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


TUNER = {"parameters": {"rate": {}}, "loss": "program:one_loss", "data": "program:training"}
EDGE = {"upper": "values", "lower": "classifier"}
WRONG: list[tuple[str, list[tuple[str, Any]], str, str]] = [
    ("method", [(METHOD, "lora")], "edges[0].method: 'lora' is not a valuation method", "method: logra"),
    ("nested name", [(METHOD, {"name": "ekfca"})], "'ekfca' is not a valuation method", "name: ekfac"),
    ("trains", [(METHOD, "sama")], "'sama' trains an upper, and example weights are not trained", ""),
    ("halves", [(METHOD, {"inverse": "cg"})], "example weights have no inverse", ""),
    ("option", [(METHOD, {"name": "logra", "rnk": 2})], "method 'logra' has no option 'rnk'", "rank"),
    ("options of cg", [(METHOD, {"name": "cg", "warm_start": True})], "method 'cg' has no option 'warm_start'", ""),
    ("least", [(METHOD, {"name": "logra", "rank": 0})], "0 is out of range", ""),
    ("choice", [(METHOD, {"name": "logra", "init": "pac"})], "edges[0].method.init: found 'pac' (text)", "pca"),
    ("likelihood", [(f"{WEIGHTS}.likelihood", "categorial")], "'categorial' is not a likelihood", "categorical"),
    ("field", [(f"{WEIGHTS}.dtpe", "bf16")], "unknown field 'dtpe'", "dtype"),
    ("alone", [(f"{WEIGHTS}.outputs", ...)], "likelihood of 'values' is given without outputs", "program:logits"),
    ("outputs", [(f"{WEIGHTS}.outputs", "program:logit")], "'program' has no 'logit'", "program:logits"),
    ("parts", [(f"{WEIGHTS}.layers", ["9"])], "problems.values.example_weights.layers", ""),
    ("ranks", [(f"{WEIGHTS}.ranks", {"2": 1, "3": 1})], "no layer is called '3': expected names", ""),
    ("rank of none", [(f"{WEIGHTS}.ranks", {"2": 0})], "problems.values.example_weights.ranks.2", ""),
    (
        "ranks of a whole",
        [(f"{WEIGHTS}.ranks", {"2": 1}), (METHOD, "ekfac")],
        "ranks are of projections, and 'ekfac' has none",
        "remove ranks",
    ),
    ("module", [("problems.values.module", "program:net")], "'values' is one weight for each example", "remove module"),
    ("unroll", [("problems.values.unroll", 3)], "it has no unroll", "remove unroll"),
    ("no loss", [("problems.values.loss", ...)], "problem 'values' has no loss", ""),
    ("reads", [("problems.classifier.loss", "program:weighted")], "reads 'values', which are example weights", ""),
    ("validates", [("engine.validate", "program:misread")], "reads 'values', which is no problem", ""),
    ("no edge", [("edges", [])], "no edge says whose examples 'values' weighs", "lower: classifier"),
    ("turned", [("edges.0", {"upper": "classifier", "lower": "values"})], "which answer to no upper", "upper: values"),
    ("flow", [("edges.0.flow", "up")], "flow 'up': example weights weigh the lower's losses", "flow: both"),
    ("third", [("problems.tuner", TUNER)], "'tuner' stands beside the example weights 'values'", "remove tuner"),
    ("no data", [("problems.classifier.data", ...)], "'classifier' has no data, whose examples", ""),
    (
        "no outputs",
        [(WEIGHTS, {}), (METHOD, "gauss_newton")],
        "'gauss_newton' needs the model's outputs",
        "outputs: program:logits",
    ),
    ("not weights", [(WEIGHTS, ...), ("problems.values.module", "program:net")], "'logra' values examples", "{}"),
]


@pytest.mark.parametrize(("changes", "message", "hint"), [case[1:] for case in WRONG], ids=[one[0] for one in WRONG])
def test_a_mistake_is_named_where_it_is(changes: list[tuple[str, Any]], message: str, hint: str) -> None:
    path = written(changed(*changes))
    with pytest.raises(SpecError) as caught:
        Engine(path)
    found = str(caught.value)
    assert message in found
    assert f"try       {hint}" in found or hint in found.partition("try")[2]
    assert "spec.yaml:" in found


def test_all_mistakes_come_at_once_and_without_imports() -> None:
    path = written(
        changed(
            (METHOD, {"name": "logra", "rnk": 2}),
            (f"{WEIGHTS}.dtype", "fp8"),
            ("problems.values.optimizer", "torch.optim.SGD"),
            ("problems.classifier.loss", "program:weighted"),
        )
    )
    with pytest.raises(SpecError) as caught:
        compile_source(path, static=True)
    assert len(caught.value.diagnostics) == 4


def test_the_method_of_an_edge_alone_may_be_of_either_kind() -> None:
    """An edge that is made in Python does not know its upper yet."""
    found = EdgeSpec(upper="values", lower="classifier", method={"name": "logra", "rank": 3})
    assert found.to_valuation() == valuation("logra", {"rank": 3})
    assert EdgeSpec(upper="a", lower="b", method="sama").to_method() is not None
    with pytest.raises(ValueError, match="nothing"):
        EdgeSpec(upper="a", lower="b", method="nothing")


def test_the_schema_says_the_same() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    assert validator.is_valid(SPEC)
    assert validator.is_valid(changed((WEIGHTS, {}), (METHOD, "ekfac")))
    assert not validator.is_valid(changed((METHOD, {"name": "logra", "init": "pac"})))
    assert not validator.is_valid(changed((f"{WEIGHTS}.likelihood", "normal")))


@pytest.mark.parametrize("weights", [{}, SPEC["problems"]["values"]["example_weights"]])
def test_a_written_spec_reads_back_the_same(weights: dict[str, Any]) -> None:
    first = load(changed((WEIGHTS, weights))).spec
    assert first.problems["values"].example_weights is not None
    assert load(yaml.safe_load(to_yaml(first))).spec == first


def test_a_layer_has_a_rank_of_its_own() -> None:
    engine = Engine(written(changed((f"{WEIGHTS}.ranks", {"2": 1}))))
    log = next(item for item in engine.plan.then.instructions if isinstance(item, Log)) if engine.plan.then else None
    # Two sides of 2 for the first layer, which is not named, and two of 1 for the second.
    assert log is not None and log.size == 2 * 2 + 1 * 1
    assert parse_plan(plan_to_text(engine.plan)) == engine.plan
    valued = Valued(changed((f"{WEIGHTS}.ranks", {"2": 1})))
    assert valued.valuation().log(valued.train_batches()).size == 5
    every = Valued(changed((f"{WEIGHTS}.ranks", {"2": 1, "*": 3})))
    assert every.valuation().log(every.train_batches()).size == 3 * 3 + 1
    assert every.explain().count("22 examples × 10 numbers") == 1


def test_the_plan_says_that_it_logs_and_scores() -> None:
    engine = Engine(written(SPEC))
    then = engine.plan.then
    assert then is not None
    fit, log, score = then.instructions
    assert isinstance(fit, Fit) and isinstance(log, Log) and isinstance(score, Score)
    # Layers [5, 5] and [3, 6], both sides at rank 2, in single precision.
    assert (log.examples, log.size, log.stored, score.queries) == (22, 8, 22 * 8 * 4, 5)
    assert fit.passes == 1.0
    assert log.estimate is not None
    step = engine.plan.step("classifier").instructions[1].estimate
    assert step is not None
    assert log.estimate.flops == step.flops * 22 / 4
    assert parse_plan(plan_to_text(engine.plan)) == engine.plan
    text = engine.explain()
    assert "repeat 8, then log and score" in text
    assert "logged and scored, not trained" in text
    assert "store ≈ 704 B on disk: 22 examples × 8 numbers in fp32" in text


def test_the_time_that_it_takes_is_measured() -> None:
    valued = Valued(SPEC)
    before = [leaf.clone() for leaf in valued.model.parameters()]
    random = torch.get_rng_state()
    assert re.search(r"\ntime ≈ [\d.]+ ms to fit and log, [\d.]+ ms to score, at [\d.]+ ms for a", valued.explain())
    assert torch.equal(random, torch.get_rng_state())
    assert all(leaf.grad is None for leaf in valued.model.parameters()) and valued.model.training
    assert all(torch.equal(one, other) for one, other in zip(before, valued.model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["graph.svg", "graph.dot", "graph.mmd"])
def test_the_graph_shows_example_weights(name: str) -> None:
    Engine(SPEC).render(name)
    drawn = Path(name).read_text()
    assert "example weights" in drawn
    assert "logra(rank=2)" in drawn


def test_the_compiler_chooses_by_size_and_says_why() -> None:
    graph = Engine(changed((METHOD, "auto"))).graph
    assert graph.valued is not None
    assert graph.valued.valuation == valuation("ekfac")
    assert "gradients of 43 parameters can be stored whole" in graph.valued.reason


def test_compiled_without_imports() -> None:
    command = [sys.executable, "-m", "betty", "compile", "--static", "--json", str(written(SPEC))]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout)
    assert [one["op"] for one in found["then"]["instructions"]] == ["fit", "log", "score"]
    assert found["edges"][0]["solver"]["name"] == "logra"


def test_the_parts_of_a_program() -> None:
    parts = split(compile_source(SPEC))
    assert parts is not None and parts.outputs is not None and parts.training.resolved is not None
    assert (parts.lower, parts.upper, parts.method) == ("classifier", "values", valuation("logra", {"rank": 2}))
    assert list(parts.training.document.spec.problems) == ["classifier"]
    model, batch = torch.nn.Linear(4, 3), (torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    apart = cross_entropy(model(batch[0]), batch[1], reduction="none")
    torch.testing.assert_close(parts.losses(model, batch), apart)
    torch.testing.assert_close(parts.outputs(model, batch), model(batch[0]))
    mean = parts.training.resolved.problems["classifier"].loss(batch=batch, classifier=model)
    torch.testing.assert_close(mean, apart.mean())


def test_metrics_stay_beside_the_mean() -> None:
    mean = mean_of(lambda: {"loss": torch.tensor([1.0, 3.0]), "seven": 7.0}, "it")
    assert mean() == {"loss": torch.tensor(2.0), "seven": 7.0}


def test_a_loss_of_one_number_is_told_apart() -> None:
    with pytest.raises(BettyError, match=r"'classifier' \(program:one_loss\) gives a single number: expected one for"):
        Engine(changed(("problems.classifier.loss", "program:one_loss"))).run()


def test_data_comes_in_its_own_order_whole() -> None:
    valued = Valued(SPEC)
    batches = list(valued.train_batches())
    assert [len(batch[0]) for batch in batches] == [4, 4, 4, 4, 4, 2]
    whole = torch.randn(22, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.cat([batch[0] for batch in batches]), whole)
    assert len(valued.train_batches().dataset) == 22
    queries = valued.query_batches()
    assert queries is not None and queries.examples == 5


def test_other_queries() -> None:
    assert Valued(changed(("problems.values.data", ...))).query_batches() is None
    queries = Valued(SPEC, queries="program:others").query_batches()
    assert queries is not None and queries.examples == 2


def test_training_is_that_of_the_mean() -> None:
    valued, engine = Valued(SPEC), Engine(changed(("problems.classifier.loss", "program:with_metrics")))
    found, with_metrics = valued.train(), engine.run()
    assert found.metrics["classifier.loss"] == with_metrics.metrics["classifier.loss"]
    assert with_metrics.metrics["classifier.seven"] == 7.0
    for one, other in zip(valued.model.parameters(), engine.modules["classifier"].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_is_trained_logged_and_scored() -> None:
    """By plain products of gradients the scores are what autograd says."""
    spec = changed((METHOD, "identity"), ("engine.validate", "program:measured"))
    Engine(spec).run(out="run")
    valued = Valued(spec)
    valued.load("run")
    with np.load("run/scores.npz") as file:
        scores, ids, losses = torch.from_numpy(file["scores"]), file["ids"], torch.from_numpy(file["losses"])
    assert ids.tolist() == list(range(22))
    leaves = list(valued.model.parameters())

    def gradient(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = cross_entropy(valued.model(x[None]), y[None])
        return torch.cat([leaf.flatten() for leaf in torch.autograd.grad(loss, leaves)]), loss.detach()

    queries = valued.query_batches()
    assert queries is not None
    asked = torch.stack([gradient(*one)[0] for one in queries.dataset])
    rows, apart = zip(*(gradient(*one) for one in valued.train_batches().dataset), strict=True)
    torch.testing.assert_close(scores, -asked @ torch.stack(rows).T)
    torch.testing.assert_close(losses, torch.stack(apart))
    # The same values again, from the same folder: nothing is left to log.
    again = valued.valuation("run/values").log(valued.train_batches())
    torch.testing.assert_close(again.score(queries), scores)


def test_parameters_that_belong_to_another_model() -> None:
    torch.save({"weight": torch.zeros(2)}, "weights.pt")
    with pytest.raises(RunError, match=r"weights\.pt holds another model than 'classifier'"):
        Valued(SPEC).load("weights.pt")
    with pytest.raises(RunError, match="there is no file"):
        Valued(SPEC).load("nothing.pt")


def test_a_spec_that_only_trains() -> None:
    spec = changed(("problems.values", ...), ("edges", []), ("problems.classifier.loss", "program:one_loss"))
    assert Engine(spec).weighted is None
    with pytest.raises(BettyError, match="the spec values no examples"):
        Valued(spec)


def test_there_is_no_hypergradient_to_check() -> None:
    with pytest.raises(BettyError, match="this program values examples"):
        Engine(SPEC).check()


def test_the_decay_of_weights_is_that_of_the_loss() -> None:
    leaf = [torch.nn.Parameter(torch.zeros(1))]
    assert decay_of(torch.optim.SGD(leaf, 0.1, weight_decay=0.2)) == 0.2
    assert decay_of(torch.optim.Adam(leaf, 0.1, weight_decay=0.2)) == 0.2
    assert decay_of(torch.optim.AdamW(leaf, 0.1, weight_decay=0.2)) == decay_of(None) == 0.0
    assert Valued(SPEC).weighted.weight_decay == 0.01
    assert Valued(changed((f"{WEIGHTS}.weight_decay", 0.5))).weighted.weight_decay == 0.5
