"""The report: as a table, as HTML, as JSON, as a picture."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from betty.backends.torch.check import check_program
from betty.checking import Report
from betty.ir.diagnostics import BettyError
from betty.ir.methods import INVERSES, PRODUCTS, UNPAIRED, preset
from tests.check.support import F64, bowl, checked, only, row, still, two_level

X = torch.tensor([0.3, -0.7], dtype=F64)
THETA = torch.tensor([1.0, 2.0, 3.0], dtype=F64)


@pytest.fixture(scope="module")
def report() -> Report:
    return Report(checked(two_level(bowl(400.0, 1.0, -0.5), THETA, X), iterations=3, points=2))


def test_every_method_of_the_tables_has_a_row(report: Report) -> None:
    names = {one.name for one in report.rows}
    assert names == {f"{inverse} + {product}" for inverse in INVERSES for product in PRODUCTS} | set(UNPAIRED)
    assert [one.name for one in report.rows if one.chosen] == ["identity + finite_difference"]
    for one in report.rows:
        assert one.ran != bool(one.reason), one
        assert not one.ran or (one.steps > 0 and one.seconds > 0 and len(one.measurements) == 2), one


def test_text_is_narrow_and_says_everything(report: Report) -> None:
    text = repr(report)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "\x1b" not in text
    for one in report.rows:
        assert one.name in text
    for flag in report.flags:
        assert flag.code in text
    assert "\nrecommendation   method: " in text and "\n  why  " in text
    assert "edge top -> low" in text and "iterations 1 and 3" in text
    assert "reinforce" in text.partition("cannot run here")[2]


def test_html_has_the_same_tables(report: Report) -> None:
    page = report._repr_html_()
    assert page.startswith("<pre") and "<span" in page
    assert "cg + reverse" in page and "negative_curvature" in page


def test_json(report: Report) -> None:
    found = json.loads(report.to_json())
    assert list(found) == [
        "format",
        "program",
        "iterations",
        "seed",
        "tolerance",
        "seconds",
        "edges",
        "without_response",
    ]
    (edge,) = found["edges"]
    assert list(edge) == [
        "upper",
        "lower",
        "target",
        "reference",
        "points",
        "methods",
        "flags",
        "recommendation",
        "notes",
    ]
    assert edge["points"] == [1, 3] and len(edge["methods"]) == len(report.rows)
    own = next(one for one in edge["methods"] if one["chosen"])
    assert own["method"] == "finite_difference" and own["ran"] and own["error"] > 0 and own["bytes"] > 0
    assert [one["iteration"] for one in own["points"]] == [1, 3]
    stuck = next(one for one in edge["methods"] if one["name"] == "reinforce")
    assert stuck["error"] is None and stuck["reason"] and stuck["points"] == []
    assert {one["code"] for one in edge["flags"]} >= {"negative_curvature", "divergent_neumann"}
    assert set(edge["recommendation"]) == {"name", "method", "change", "reason"}


def test_json_has_no_infinities() -> None:
    """A loss that is not a number at theta < 0, where a step of finite differences ends."""

    def loss(theta: Tensor, x: Tensor) -> Tensor:
        return theta.sqrt().sum() * x.sum() + 0.5 * theta.square().sum()

    start = torch.tensor([0.004, 1.0, 1.0], dtype=F64)
    found = Report(checked(two_level(loss, start, X), methods=()))
    assert math.isinf(found.rows[0].error)
    assert json.loads(found.to_json())["edges"][0]["methods"][0]["error"] is None
    assert "diverges" in repr(found)
    assert found.recommendation("top", "low") is None and "none: no method gave" in repr(found)


def test_an_edge_that_was_not_checked(report: Report) -> None:
    with pytest.raises(BettyError, match=r"no edge low -> top was checked; there are top -> low"):
        report.recommendation("low", "top")


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_plot(report: Report, ending: str, tmp_path: Path) -> None:
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    figure = report.plot(tmp_path / f"check.{ending}")
    assert (tmp_path / f"check.{ending}").read_bytes().startswith(starts[ending])
    texts = [one.get_text() for one in figure.axes[0].texts]
    assert any("(as now)" in text for text in texts) and any("recommended" in text for text in texts)


def test_labels_of_a_plot_do_not_lie_on_each_other(report: Report, tmp_path: Path) -> None:
    figure = report.plot(tmp_path / "check.png")
    figure.canvas.draw()
    boxes = [one.get_window_extent() for one in figure.axes[0].texts]
    assert boxes and not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_plot_refuses_what_it_cannot_write(report: Report, tmp_path: Path) -> None:
    with pytest.raises(BettyError, match=r"a plot ends in one of \.png, \.svg, \.pdf, not 'check.gif'"):
        report.plot(tmp_path / "check.gif")
    with pytest.raises(BettyError, match="cannot be written"):
        report.plot(tmp_path / "nowhere" / "check.png")


def test_plot_names_the_extra_that_is_missing(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BettyError, match=r"pip install 'betty-mlo\[plot\]'"):
        report.plot()


def test_updates_without_a_derivative_are_named() -> None:
    built = two_level(bowl(3.0, 1.0), THETA[:2], X, optimizer=lambda leaves: torch.optim.Rprop(leaves, lr=1e-3))
    found = only(checked(built, methods=(preset("unrolled"), preset("forward_mode"))))
    assert found.rows[0].ran
    for one in found.rows[1:]:
        assert not one.ran and "Rprop" in one.reason


class Cut(torch.autograd.Function):
    """A square whose gradient cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise NotADifferentiableGradientError("the gradient of Cut")
        (value,) = ctx.saved_tensors
        return 2 * value * gradient


class NotADifferentiableGradientError(Exception):
    """Raised where a graph of the gradient is asked for."""


def test_a_loss_without_second_derivatives() -> None:
    """Exact products are named with torch's reason; the reference is by differences in double precision."""

    def loss(theta: Tensor, x: Tensor) -> Tensor:
        fourth: Tensor = Cut.apply(theta).square().sum() / 4  # type: ignore[no-untyped-call]
        return fourth + (theta * x.sum()).sum()

    found = only(checked(two_level(loss, THETA, X), methods=(preset("cg"), preset("neumann"))))
    assert "NotADifferentiableGradientError: the gradient of Cut" in row(found, "cg + reverse").reason
    assert "by finite differences" in found.reference
    # H = diag(3 theta^2), and the response is minus the sum of H^-1 (theta - 1); the identity leaves H out.
    exact = ((THETA - 1) / (3 * THETA.square())).sum()
    error = float((THETA - 1).sum() / exact) - 1
    assert row(found, "identity + finite_difference").error == pytest.approx(error, rel=1e-3)


def test_a_loss_that_fails_in_double_precision() -> None:
    constant = torch.ones(3)

    def loss(theta: Tensor, x: Tensor) -> Tensor:
        return 0.5 * theta.square().sum() + (theta @ constant) * x.sum()

    found = only(checked(two_level(loss, THETA.float(), X.float()), methods=(preset("cg"),)))
    assert row(found, "cg + reverse").error < 1e-5
    assert any("own precision, as its losses fail in double precision" in note for note in found.notes)


def test_a_loss_that_draws_otherwise_in_double_precision() -> None:
    def loss(theta: Tensor, x: Tensor) -> Tensor:
        noise = torch.rand_like(theta)
        return 0.5 * ((1 + noise) * theta.square()).sum() + theta.sum() * x.sum()

    found = only(checked(two_level(loss, THETA.float(), X.float()), methods=(preset("dense"),)))
    assert row(found, "dense + reverse").error < 1e-5
    assert any("draw differently in double precision" in note for note in found.notes)


def test_dropout_draws_the_same_in_both_precisions() -> None:
    def loss(theta: Tensor, x: Tensor) -> Tensor:
        kept = nn.functional.dropout(theta, 0.5)
        return 0.5 * (kept.square() + theta.square()).sum() + theta.sum() * x.sum()

    start = torch.arange(1.0, 33.0) / 8
    found = only(checked(two_level(loss, start, X.float()), methods=(preset("dense"),)))
    assert row(found, "dense + reverse").error < 1e-5 and not found.notes


def test_a_program_without_responses() -> None:
    from tests.support.programs import Part, assemble

    def alone(one: Any) -> Tensor:
        value: Tensor = one.parameters["theta"].square().sum()
        return value

    from betty.backends.torch.objective import ParameterModule

    found = checked(assemble([Part(name="one", module=ParameterModule({"theta": THETA}), loss=alone)], []))
    assert found.edges == () and "check toy" in repr(Report(found))


def test_single_precision_is_compared_with_double() -> None:
    lower = bowl(3.0, 1.0, 2.0)
    found = only(checked(two_level(lower, THETA.float(), X.float()), methods=(preset("dense"),)))
    assert 1e-9 < row(found, "dense + reverse").error < 1e-5
    assert not found.notes


def test_expensive_methods_are_left_out_but_the_edge_s_own() -> None:
    net = nn.Linear(4, 1)

    def fit(batch: Tensor, net: Any, top: Any) -> Tensor:
        loss: Tensor = (net(batch).square() * top.parameters["x"].exp().sum()).mean()
        return loss

    def judge(net: Any) -> Tensor:
        value: Tensor = (net.weight - 1).square().sum()
        return value

    from betty import Engine

    live = {
        "name": "linear",
        "problems": {
            "net": {"module": net, "loss": fit, "data": [torch.randn(8, 4)], "optimizer": torch.optim.Adam},
            "top": {"parameters": {"x": {"shape": [2]}}, "loss": judge, "optimizer": torch.optim.Adam},
        },
        "edges": [{"upper": "top", "lower": "net", "method": {"name": "cg", "iterations": 500}}],
        "engine": {"device": "cpu"},
    }
    found = Engine(live).check(iterations=1, points=1, most_steps=30).edges[0]
    assert row(found, "cg + reverse").ran  # its own, though 500 iterations are expected to take more
    assert "left out: it would take about" in row(found, "cg + finite_difference").reason
    assert row(found, "identity + reverse").ran


def test_a_trained_point_is_the_one_of_the_program() -> None:
    """With a learning rate the check moves a copy; the program stays."""
    built = two_level(bowl(3.0, 1.0, 2.0), THETA, X, optimizer=lambda leaves: torch.optim.SGD(leaves, lr=0.3))
    found = only(checked(built, iterations=40, points=3, methods=(preset("dense"),)))
    assert found.points == (4, 20, 40)
    assert torch.equal(built.program["low"].parameters[0], THETA)
    assert not [one for one in found.flags if one.code == "unconverged_lower" and one.iteration == 40]


def test_slow_start_of_uppers_is_waited_for() -> None:
    from dataclasses import replace

    built = two_level(bowl(3.0, 1.0, 2.0), THETA, X, optimizer=still, unroll=3)
    graph = built.graph.map(problem=lambda one: replace(one, warm_up=10) if one.name == "low" else one)
    found = check_program(graph, built.program, asked(iterations=3))
    assert all(point > 10 and point % 3 == 0 for point in found.edges[0].points)


def asked(**options: Any) -> Any:
    from betty.backends.torch.check import Request

    return Request(methods=(), points=2, **options)
