"""The programs of the examples: their data, their losses and what they claim in closed form."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from betty.spec.beside import import_beside

EXAMPLES = Path(__file__).parents[2] / "examples"
seeds = st.integers(0, 2**31 - 1)


@pytest.fixture(scope="module")
def cleaning() -> ModuleType:
    return import_beside(EXAMPLES / "hyper_cleaning", "program")


@pytest.fixture(scope="module")
def ridge() -> ModuleType:
    return import_beside(EXAMPLES / "ridge_hpo", "program")


def problem(**parameters: Tensor) -> Any:
    """What a loss sees of a problem that is a plain set of parameters."""
    return SimpleNamespace(parameters=parameters)


def keys(*sets: Tensor) -> list[tuple[float, ...]]:
    """Examples as values that can be counted; the digits have no two equal images."""
    return [tuple(row.tolist()) for examples in sets for row in examples]


class TestHyperCleaning:
    @pytest.mark.parametrize("flip", ["next", "any"])
    def test_exactly_the_flipped_labels_are_wrong(self, cleaning: ModuleType, flip: str) -> None:
        digits = cleaning.split(3)
        labels = cleaning.noisy_labels(3, flip)
        assert torch.equal(labels != digits.train[1], digits.flipped)
        assert int(digits.flipped.sum()) == 540  # 40 % of 1,350
        assert set(labels.tolist()) == set(range(10))

    def test_next_moves_to_the_next_digit(self, cleaning: ModuleType) -> None:
        digits = cleaning.split(0)
        shift = (cleaning.noisy_labels(0) - digits.train[1]) % 10
        assert torch.equal(shift, digits.flipped.long())

    def test_any_reaches_all_other_digits(self, cleaning: ModuleType) -> None:
        digits = cleaning.split(0)
        shift = (cleaning.noisy_labels(0, "any") - digits.train[1])[digits.flipped] % 10
        assert set(shift.tolist()) == set(range(1, 10))

    def test_sets_are_disjoint_and_complete(self, cleaning: ModuleType) -> None:
        digits = cleaning.split(1)
        found = keys(digits.train[0], digits.clean[0], digits.test[0])
        assert len(found) == len(set(found)) == 1797

    def test_clean_set_holds_three_of_each_digit(self, cleaning: ModuleType) -> None:
        assert torch.bincount(cleaning.clean_digits(4).tensors[1]).tolist() == [3] * 10

    def test_the_seed_decides(self, cleaning: ModuleType) -> None:
        first = cleaning.noisy_digits(5).tensors
        cleaning.split.cache_clear()
        again, other = cleaning.noisy_digits(5).tensors, cleaning.noisy_digits(6).tensors
        assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(cleaning.split(5).flipped, cleaning.split(6).flipped)

    def test_weights_belong_to_their_examples(self, cleaning: ModuleType) -> None:
        """With the weight of one example alone the loss is that example's share of the batch."""
        classifier = cleaning.Classifier(width=8)
        batch = [tensor[40:50] for tensor in cleaning.noisy_digits(0).tensors]
        logits = torch.full((cleaning.TRAIN,), -torch.inf)
        logits[43] = 0.0
        found = cleaning.weighted_loss(batch, classifier, problem(logits=logits))
        loss = torch.nn.functional.cross_entropy(classifier(batch[0][3:4]), batch[1][3:4])
        torch.testing.assert_close(found, 0.5 * loss / 10)

    def test_losses_are_finite_scalars(self, cleaning: ModuleType) -> None:
        classifier, weigher = cleaning.Classifier(width=8), problem(logits=torch.zeros(cleaning.TRAIN))
        lower = cleaning.weighted_loss(list(cleaning.noisy_digits(0).tensors), classifier, weigher)
        upper = cleaning.clean_loss(list(cleaning.clean_digits(0).tensors), classifier)
        for value in (lower, *upper.values()):
            assert value.shape == ()
            assert value.isfinite()

    def test_measure_tells_the_weights_apart(self, cleaning: ModuleType) -> None:
        flipped = cleaning.split(0).flipped
        weigher = problem(logits=torch.where(flipped, -torch.inf, torch.inf))
        found = cleaning.measure(cleaning.Classifier(width=8), weigher, seed=0)
        assert (float(found["weight_clean"]), float(found["weight_flipped"])) == (1.0, 0.0)
        assert 0 <= float(found["accuracy"]) <= 1


def regression(seed: int, rows: int, features: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(rows, features + 1, generator=generator, dtype=torch.float64)
    return draw[:, :-1], draw[:, -1]


class TestRidge:
    @given(seed=seeds, features=st.integers(1, 6), rows=st.integers(1, 12))
    def test_hypergradient_against_finite_differences(
        self, ridge: ModuleType, seed: int, features: int, rows: int
    ) -> None:
        """Of the validation loss at the exact minimiser; also with fewer rows than features."""
        train, validation = regression(seed, rows, features), regression(seed + 1, 8, features)
        at = regression(seed + 2, features, 1)[1]

        def value(log_decay: Tensor) -> Tensor:
            found: Tensor = ridge.half_squared_error(ridge.exact_weights(log_decay, train), validation)
            return found

        steps = 1e-5 * torch.eye(features, dtype=torch.float64)
        differences = torch.stack([(value(at + step) - value(at - step)) / 2e-5 for step in steps])
        exact = ridge.exact_hypergradient(at, train, validation)
        torch.testing.assert_close(exact, differences, rtol=1e-5, atol=1e-7)

    @given(seed=seeds, features=st.integers(1, 6))
    def test_exact_weights_minimise_the_lower_loss(self, ridge: ModuleType, seed: int, features: int) -> None:
        train, log_decay = regression(seed, 10, features), regression(seed + 1, features, 1)[1]
        weights = ridge.exact_weights(log_decay, train).requires_grad_()
        loss = ridge.ridge_loss(train, problem(weights=weights), problem(log_weight_decay=log_decay))
        (gradient,) = torch.autograd.grad(loss, weights)
        assert float(gradient.abs().max()) < 1e-12

    def test_hessian_is_that_of_the_loss(self, ridge: ModuleType) -> None:
        train, log_decay = regression(0, 9, 4), regression(1, 4, 1)[1]

        def loss(weights: Tensor) -> Tensor:
            found: Tensor = ridge.ridge_loss(train, problem(weights=weights), problem(log_weight_decay=log_decay))
            return found

        found = torch.autograd.functional.hessian(loss, torch.ones(4, dtype=torch.float64))
        torch.testing.assert_close(found, ridge.hessian(log_decay, train))

    def test_parts_are_disjoint_and_standardised(self, ridge: ModuleType) -> None:
        parts = ridge.diabetes(2)
        assert [len(parts[name][1]) for name in ("train", "validation", "test")] == [100, 150, 192]
        features = torch.cat([part[0] for part in parts.values()])
        assert len(set(keys(features))) == 442
        torch.testing.assert_close(features.mean(dim=0), torch.zeros(30, dtype=torch.float64))
        torch.testing.assert_close(features.std(dim=0), torch.ones(30, dtype=torch.float64))

    def test_the_seed_decides(self, ridge: ModuleType) -> None:
        first = ridge.examples(5, "train").tensors
        ridge.diabetes.cache_clear()
        assert all(torch.equal(*pair) for pair in zip(first, ridge.examples(5, "train").tensors, strict=True))
        assert not torch.equal(first[0], ridge.examples(6, "train").tensors[0])

    def test_measure_is_finite(self, ridge: ModuleType) -> None:
        weights, log_decay = torch.zeros(30, dtype=torch.float64), torch.full((30,), -3.0, dtype=torch.float64)
        found = ridge.measure(problem(weights=weights), problem(log_weight_decay=log_decay), seed=0)
        assert all(value.shape == () and value.isfinite() for value in found.values())
        # Without weights the error is the mean square of the targets, whose variance is one.
        assert 0.7 < float(found["test_error"]) < 1.3
        assert float(found["decay_noise"]) == pytest.approx(float(torch.tensor(-3.0).exp()))
