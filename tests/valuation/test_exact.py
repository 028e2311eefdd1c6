"""Scores against closed forms, and against training again without an example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.valuation import Valuation
from tests.valuation.problems import Solved, ridge, softmax

EXACT: list[dict[str, Any]] = [
    {"name": "dense", "curvature": "hessian"},
    {"name": "dense", "curvature": "gauss_newton"},
    {"name": "cg", "curvature": "hessian", "iterations": 100, "tolerance": 1e-12},
    {"name": "cg", "curvature": "gauss_newton", "iterations": 100, "tolerance": 1e-12},
    {"name": "gauss_newton"},
]
"""Methods that are exact for linear models: their Gauss-Newton matrix is the Hessian, and they are one layer."""


def valued(solved: Solved, method: dict[str, Any], **options: Any) -> Valuation:
    valuation = Valuation(
        solved.model,
        solved.loss,
        method={"damping": 0.0, "damping_units": "absolute", **method},
        weight_decay=solved.decay,
        dtype="fp64",
        **options,
    )
    return valuation.log([solved.train])


@pytest.mark.parametrize("method", EXACT, ids=lambda one: "-".join(str(part) for part in one.values()))
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["ridge", "wide ridge", "softmax"]))
def test_scores_are_the_closed_form(method: dict[str, Any], seed: int, kind: str) -> None:
    solved = softmax(seed) if kind == "softmax" else ridge(seed, outputs=1 if kind == "ridge" else 2)
    truth = solved.influence()
    scores = valued(solved, method).score([solved.queries]).double()
    assert torch.linalg.norm(scores - truth) < 1e-6 * torch.linalg.norm(truth)


@pytest.mark.parametrize("make", [ridge, softmax])
def test_predicted_changes_are_those_of_training_again(make: Any) -> None:
    """Leaving an example out moves a query's loss by minus its score, to first order."""
    solved = make(3, examples=400)
    scores = valued(solved, EXACT[0]).score([solved.queries]).double()
    before = solved.losses(solved.flat(), *solved.queries)
    changes = torch.stack(
        [solved.losses(_without(solved, place), *solved.queries) - before for place in range(0, 400, 8)], 1
    )
    predicted = -scores[:, ::8]
    for one, other in zip(predicted, changes, strict=True):
        assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) > 0.99
    slope = float((predicted * changes).sum() / predicted.square().sum())
    assert 0.9 < slope < 1.15  # of the right size too: leaving out moves further than the derivative says


def _without(solved: Solved, place: int) -> Tensor:
    keep = torch.ones(len(solved.train[0]), dtype=torch.float64)
    keep[place] = 0
    return solved.fitted(keep)


@pytest.mark.parametrize("make", [ridge, softmax])
def test_self_influence_is_the_score_of_an_example_for_itself(make: Any) -> None:
    solved = make(5)
    valuation = valued(solved, EXACT[0])
    itself = valuation.score([solved.train]).diagonal()
    torch.testing.assert_close(valuation.self_influence(), -itself, rtol=1e-5, atol=1e-9)
    assert bool((valuation.self_influence() >= 0).all())


def test_relative_influence_is_divided_by_the_root_of_self_influence() -> None:
    solved = softmax(6)
    valuation = valued(solved, EXACT[0])
    plain, relative = (valuation.score([solved.queries], relative=flag) for flag in (False, True))
    torch.testing.assert_close(relative, plain / valuation.self_influence().sqrt(), rtol=1e-5, atol=1e-9)
