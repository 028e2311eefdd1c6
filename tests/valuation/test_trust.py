"""Scores beside references and beside training again, on problems whose answers are known."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from betty.ir.diagnostics import BettyError
from betty.valuation.trust import (
    Curve,
    Outcome,
    Trainer,
    Trust,
    brittleness,
    compare,
    datamodeling,
    leave_one_out,
    random_subsets,
    retrained,
)
from betty.valuation.trust.measures import pearson, ranks, spearman, strength
from tests.valuation.problems import Solved, ridge

EXAMPLES, QUERIES = 40, 7


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(scores: Tensor) -> Trainer:
    """A world in which a query's loss is the sum of the scores of what was trained on."""
    return Trainer(lambda kept, seed: scores[:, kept].sum(1), scores.shape[1], len(scores))


# Correlations


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12))
def test_equal_numbers_share_their_mean_rank(values: list[int]) -> None:
    expected = [sum(b < a for b in values) + (sum(b == a for b in values) - 1) / 2 for a in values]
    assert ranks(torch.tensor(values)).tolist() == expected


def test_correlations_are_the_known_ones() -> None:
    one, other = noise(0, 3, 50), noise(1, 3, 50)
    expected = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(one, other, strict=True)]
    torch.testing.assert_close(pearson(one, other), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(spearman(one, one.exp()), torch.ones(3, dtype=torch.float64))
    assert math.isnan(float(spearman(torch.full((5,), 0.1), noise(2, 5))))


def test_scores_are_compared_query_by_query() -> None:
    reference = noise(3, 4, 30)
    same = compare(2.5 * reference, reference)
    for kind in (same.cosine, same.pearson, same.spearman, same.sign):
        torch.testing.assert_close(kind, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(same.scale, torch.full((4,), 2.5, dtype=torch.float64))
    against = compare(-reference, reference)
    assert against.record()["sign"] == 0 and against.record()["cosine"] == pytest.approx(-1)
    assert abs(compare(noise(4, 4, 4000), noise(5, 4, 4000)).record()["spearman"]) < 0.05
    with pytest.raises(BettyError, match=r"\[queries, examples\]"):
        compare(reference, reference[:, :3])
    with pytest.raises(BettyError, match="1 of the scores are not finite"):
        compare(torch.tensor([[1.0, math.nan]]), torch.ones(1, 2))


# Linear datamodeling score


@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_a_linear_datamodel_scores_one(seed: int) -> None:
    scores = noise(seed, 3, EXAMPLES)
    subsets = random_subsets(EXAMPLES, 12, seed=seed)
    assert bool((subsets.sum(1) == EXAMPLES // 2).all())
    found = datamodeling(scores, subsets, retrained(linear(scores), subsets))
    assert found.score == pytest.approx(1) and found.low == pytest.approx(1) and found.high == pytest.approx(1)
    opposite = datamodeling(-scores, subsets, retrained(linear(scores), subsets))
    assert opposite.score == pytest.approx(-1)


def test_noise_scores_nothing_and_the_interval_says_so() -> None:
    subsets = random_subsets(EXAMPLES, 100)
    losses = retrained(linear(noise(0, QUERIES, EXAMPLES)), subsets)
    found = datamodeling(noise(1, QUERIES, EXAMPLES), subsets, losses)
    assert abs(found.score) < 0.2 and found.low < 0 < found.high and found.ceiling is None


def test_seeds_that_matter_lower_the_ceiling_and_not_seeds_that_do_not() -> None:
    scores, subsets = noise(0, QUERIES, EXAMPLES), random_subsets(EXAMPLES, 60)

    def noisy(size: float) -> Trainer:
        return Trainer(lambda kept, seed: scores[:, kept].sum(1) + size * noise(seed, QUERIES), EXAMPLES, QUERIES)

    quiet = datamodeling(scores, subsets, retrained(noisy(0.0), subsets, seeds=2))
    loud = datamodeling(scores, subsets, retrained(noisy(4.0), subsets, seeds=2))
    assert quiet.ceiling == pytest.approx(1)
    assert loud.ceiling is not None and loud.ceiling < 0.9
    assert loud.score == pytest.approx(loud.ceiling, abs=0.12)


def test_shapes_that_do_not_go_together_are_named() -> None:
    scores, subsets = noise(0, 2, EXAMPLES), random_subsets(EXAMPLES, 5)
    with pytest.raises(BettyError, match="subsets, seeds, queries"):
        datamodeling(scores, subsets, noise(0, 5, 1, 3))
    with pytest.raises(BettyError, match="at least 3"):
        datamodeling(scores, subsets[:2], noise(0, 2, 1, 2))
    with pytest.raises(BettyError, match="some, but not all"):
        random_subsets(EXAMPLES, 3, fraction=1.0)


def test_what_a_training_function_gives_is_looked_at() -> None:
    keep = torch.ones(5, dtype=torch.bool)
    with pytest.raises(BettyError, match=r"losses \[3\]: expected one for each query, \[2\]"):
        Trainer(lambda kept, seed: [1.0, 2.0, 3.0], 5, 2)(keep, 0)
    with pytest.raises(BettyError, match="not finite, with 5 examples and seed 7"):
        Trainer(lambda kept, seed: [1.0, math.inf], 5, 2)(keep, 7)


# Leaving out, on ridge regression


def closed(solved: Solved, keep: Tensor) -> Tensor:
    """The queries' losses of ridge regression with weights, by its normal equations."""
    ones = [
        torch.cat([part, torch.ones(len(part), 1, dtype=torch.float64)], 1)
        for part in (solved.train[0], solved.queries[0])
    ]
    x, asked, y, weights = *ones, solved.train[1], keep.double()
    # Its loss is (y - f)^2, twice that of the normal equations.
    left = 2 * (x.T * weights) @ x / len(x) + solved.decay * torch.eye(x.shape[1], dtype=torch.float64)
    theta = torch.linalg.solve(left, 2 * (x.T * weights) @ y / len(x))
    return (asked @ theta - solved.queries[1]).square().sum(1)


def refitted(solved: Solved) -> Trainer:
    def train(kept: Tensor, seed: int) -> Outcome:
        keep = torch.zeros(len(solved.train[0]), dtype=torch.float64)
        keep[kept] = 1
        losses = solved.losses(solved.fitted(keep), *solved.queries)
        return Outcome(losses, (losses > losses.median()).long())

    return Trainer(train, len(solved.train[0]), len(solved.queries[0]))


def test_leaving_one_out_is_the_closed_form_and_what_influence_predicts() -> None:
    solved = ridge(2, examples=200)
    trainer, places = refitted(solved), list(range(0, 200, 10))
    found = leave_one_out(trainer, places)
    everything = torch.ones(200)
    for column, place in zip(found.T, places, strict=True):
        keep = everything.clone()
        keep[place] = 0
        torch.testing.assert_close(column, closed(solved, keep) - closed(solved, everything), rtol=1e-7, atol=1e-10)
    assert float(pearson(-solved.influence()[:, places], found).mean()) > 0.99
    assert trainer.calls == len(places) + 1


def test_the_curve_is_that_of_the_closed_form() -> None:
    solved = ridge(1)
    scores, trainer = solved.influence(), refitted(solved)
    curve = brittleness(trainer, scores, [8, 2], queries=[0, 3], draws=2, seed=5)
    assert curve.removed == (2, 8) and curve.queries == (0, 3)
    assert trainer.calls == 1 + 2 * (2 + 2)
    everything = torch.ones(len(scores.T))
    for row, count in zip(curve.helpful, curve.removed, strict=True):
        for change, query in zip(row, curve.queries, strict=True):
            keep = everything.clone()
            keep[scores[query].argsort()[:count]] = 0
            expected = closed(solved, keep)[query] - closed(solved, everything)[query]
            torch.testing.assert_close(change, expected, rtol=1e-7, atol=1e-10)
    assert bool((curve.helpful.mean(1) > curve.random.mean(1)).all())
    assert curve.flipped is not None and curve.random_flipped is not None
    assert bool(((curve.flipped >= 0) & (curve.flipped <= 1)).all())
    with pytest.raises(BettyError, match="some, but not all"):
        brittleness(trainer, scores, [len(scores.T)])


def test_predictions_that_flip_are_counted() -> None:
    scores = -torch.eye(4, dtype=torch.float64)[:2]  # query q is helped by example q alone

    def train(kept: Tensor, seed: int) -> Outcome:
        right = torch.tensor([0 in kept, 1 in kept])
        return Outcome(1 - right.double(), right.long())

    curve = brittleness(Trainer(train, 4, 2), scores, [1])
    assert curve.flipped is not None and curve.flipped.tolist() == [1.0]
    assert curve.helpful.tolist() == [[1.0, 1.0]]


# What is said


def trust(scores: Tensor, reference: Tensor, curve: Curve | None = None) -> Trust:
    subsets = random_subsets(EXAMPLES, 40)
    return Trust(
        method="logra(rank=4)",
        examples=EXAMPLES,
        queries=len(scores),
        parameters=1234,
        reference="exact influence",
        exact=compare(scores, reference),
        datamodeling=datamodeling(scores, subsets, retrained(linear(reference), subsets)),
        curve=curve,
        trainings=40,
        notes=("a note",),
    )


def test_what_was_found_is_said_in_words_and_numbers() -> None:
    reference = noise(0, QUERIES, EXAMPLES)
    curve = brittleness(linear(reference), reference, [2, 5])
    found = trust(reference, reference, curve)
    text = " ".join(str(found).split())
    assert "A very strong correlation with exact influence was found (1.000); the scores are of its size." in text
    assert "A very strong correlation with training again on halves of the data was found" in text
    assert "the 5 most helpful" in text and "1,234 parameters" in text and "note: a note" in text
    assert "they do matter to it" in text
    record = json.loads(found.to_json())
    assert record["exact"]["spearman"] == pytest.approx(1) and len(record["curve"]) == 2
    assert record["words"] == list(found.words) and record["datamodeling"]["score"] == pytest.approx(1)


def test_scores_of_another_size_or_of_noise_are_called_that() -> None:
    reference = noise(0, QUERIES, EXAMPLES)
    assert "5 times as large, so read them as an order" in trust(5 * reference, reference).words[0]
    wild = trust(noise(9, QUERIES, EXAMPLES), reference)
    assert "No correlation with training again was found" in wild.words[1]
    assert Trust("kfac", 1, 1, 1).words == ("Nothing was compared: these scores are not checked.",)


def test_what_cannot_be_told_is_null_in_json() -> None:
    constant = torch.zeros(2, EXAMPLES)
    record = json.loads(trust(constant, noise(0, 2, EXAMPLES)).to_json())
    assert record["exact"]["spearman"] is None and record["datamodeling"]["score"] is None


@pytest.mark.parametrize(
    ("correlation", "word"),
    [(math.nan, "no"), (0.05, "no"), (0.2, "a weak"), (0.5, "a moderate"), (-0.7, "a strong negative")],
)
def test_correlations_have_names(correlation: float, word: str) -> None:
    assert strength(correlation) == word
