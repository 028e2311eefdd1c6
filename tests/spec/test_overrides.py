"""``--set path=value``."""

from __future__ import annotations

from pathlib import Path

import pytest

from betty.ir.diagnostics import SpecError
from betty.spec.load import load
from betty.spec.models import Spec
from tests.spec.support import SPEC, edited, write


def overridden(folder: Path, *overrides: str, spec: str = SPEC) -> Spec:
    return load(write(folder, spec), overrides).spec


def test_numbers_text_and_mappings(tmp_path: Path) -> None:
    spec = overridden(
        tmp_path, "engine.iterations=7", "name=other", "problems.classifier.module.args={width: 3}", "engine.seed = 2"
    )
    assert (spec.engine.iterations, spec.name, spec.engine.seed) == (7, "other", 2)
    module = spec.problems["classifier"].module
    assert module is not None
    assert module.args == {"width": 3}


@pytest.mark.parametrize("path", ["edges.0.method", "edges[0].method"])
def test_items_of_lists(tmp_path: Path, path: str) -> None:
    assert overridden(tmp_path, f"{path}=cg").edges[0].method == "cg"


@pytest.mark.parametrize("name", ["classifier", "weigher"])
def test_options_of_an_optimizer_wherever_they_stand(tmp_path: Path, name: str) -> None:
    optimizer = overridden(tmp_path, f"problems.{name}.optimizer.lr=5.0").problems[name].optimizer
    assert optimizer is not None
    assert optimizer.args["lr"] == 5.0


def test_short_forms_are_written_out(tmp_path: Path) -> None:
    spec = overridden(tmp_path, "edges.0.method=cg", "edges.0.method.iterations=3", "problems.weigher.loss.args.k=1")
    method, loss = spec.edges[0].to_method(), spec.problems["weigher"].loss
    assert method is not None
    assert loss is not None
    assert method.solver["iterations"] == 3
    assert (loss.target, loss.args) == ("program:clean_loss", {"k": 1})


def test_missing_mappings_are_made(tmp_path: Path) -> None:
    spec = overridden(
        tmp_path, "engine.log.every=3", "problems.third.parameters.w.shape=[2]", "problems.third.loss=a:b"
    )
    parameters = spec.problems["third"].parameters
    assert spec.engine.log.every == 3
    assert parameters is not None
    assert parameters["w"].shape == [2]


def test_an_edge_can_be_added(tmp_path: Path) -> None:
    spec = overridden(tmp_path, "edges[1].upper=classifier", "edges[1].lower=weigher")
    assert (spec.edges[1].upper, spec.edges[1].lower) == ("classifier", "weigher")


def test_an_empty_value_is_nothing(tmp_path: Path) -> None:
    assert overridden(tmp_path, "engine.checkpoint=").engine.checkpoint is None


def test_the_last_of_two_wins(tmp_path: Path) -> None:
    assert overridden(tmp_path, "engine.seed=1", "engine.seed=2").engine.seed == 2


def test_an_anchor_is_changed_in_one_place_only(tmp_path: Path) -> None:
    spec = edited(
        ("args: {width: 8}", "args: &shared {width: 8}"), ("program:Weigher", "{target: program:Net, args: *shared}")
    )
    problems = overridden(tmp_path, "problems.weigher.module.args.width=9", spec=spec).problems
    assert [one.module.args["width"] for one in problems.values() if one.module] == [8, 9]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.seed", "'engine.seed' does not set a field"),
        ("=3", "'=3' does not set a field"),
        ("engine..seed=3", "'engine..seed=3' does not set a field"),
        ("edges[x].flow=up", "'edges[x].flow=up' does not set a field"),
        ("edges.5.flow=up", "edges has 1 item and no item 5"),
        ("edges.first.flow=up", "edges is a list of 1 item and has no field 'first'"),
        ("problems[0].unroll=2", "problems is a mapping and has no item 0"),
        ("engine.iterations.x=3", "engine.iterations is 100 (a whole number) and has no field 'x'"),
        ("name.x=3", "name is 'reweight' (text) and has no field 'x'"),
        (
            "engine.seed=[1",
            "the value '[1' is not YAML: did not find expected ',' or ']' while parsing a flow sequence",
        ),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        overridden(tmp_path, override)
    (wrong,) = error.value.diagnostics
    assert (wrong.message, wrong.where) == (message, f"--set {override}")


def test_overrides_are_checked_like_the_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        overridden(tmp_path, "problems.classifier.unroll=0")
    assert str(error.value) == (
        "SpecError: problems.classifier.unroll: 0 is out of range\n"
        "  where     --set problems.classifier.unroll=0\n"
        "  expected  at least 1"
    )


def test_a_mapping_can_be_overridden_too() -> None:
    source = {"name": "x", "problems": {"a": {"parameters": {"w": {}}, "loss": "m:f"}}}
    assert load(source, ["problems.a.unroll=3"]).spec.problems["a"].unroll == 3
    assert "unroll" not in source["problems"]["a"], "the caller's mapping stays as it is"  # type: ignore[index]
