"""What a user does with a valuation, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from betty.ir.diagnostics import BettyError
from betty.valuation import Ensemble, Valuation

TRAIN, QUERIES, INPUTS, CLASSES = 48, 5, 6, 3


def data(count: int = TRAIN, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(count, INPUTS, generator=generator), torch.randint(0, CLASSES, (count,), generator=generator)
    )


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, CLASSES))


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(data(), batch_size=10, **options)


def queries() -> DataLoader[Any]:
    return DataLoader(data(QUERIES, seed=1), batch_size=2)


METHODS: list[Any] = [
    "identity",
    "cosine",
    "fisher",
    "gauss_newton",
    "kfac",
    "ekfac",
    {"name": "kfac", "fisher": "empirical"},
    {"name": "ekfac", "fisher": "exact"},
    {"name": "logra", "rank": 3},
    {"name": "logra", "rank": 3, "init": "pca"},
    {"name": "logra", "rank": 3, "init": "ekfac"},
    {"name": "trak", "dimension": 16},
    "cg",
    "dense",
    {"name": "arnoldi", "rank": 8, "iterations": 20},
    {"name": "lissa", "iterations": 20},
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_logs_scores_and_leaves_the_model_as_it_is(method: Any) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    valuation = Valuation(model, nn.CrossEntropyLoss(), method=method).log(loader())
    scores = valuation.score(queries())
    assert scores.shape == (QUERIES, TRAIN) and scores.dtype == torch.float32
    assert bool(scores.isfinite().all()) and float(scores.std()) > 0
    own = valuation.self_influence()
    assert own.shape == (TRAIN,) and float(own.min()) >= -1e-6 * float(own.max())
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(leaf.grad is None and leaf.requires_grad for leaf in model.parameters())


def test_top_is_the_ends_of_the_scores() -> None:
    valuation = Valuation(network(), nn.CrossEntropyLoss(), method="identity").log(loader())
    scores, top = valuation.score(queries()), valuation.top(queries(), k=4)
    order = scores.argsort(1)
    assert torch.equal(top.helpful, order[:, :4])
    assert torch.equal(top.harmful, order.flip(1)[:, :4])
    torch.testing.assert_close(top.helpful_scores, scores.gather(1, order[:, :4]))
    assert "most helpful" in str(top) and len(list(top.rows())) == QUERIES


def test_a_group_has_the_sum_of_its_scores() -> None:
    valuation = Valuation(network(), nn.CrossEntropyLoss(), method="ekfac").log(loader())
    scores = valuation.score(queries())
    torch.testing.assert_close(valuation.group([1, 7, 40]), scores[:, [1, 7, 40]].sum(1), rtol=1e-4, atol=1e-6)
    one = next(iter(queries()))
    torch.testing.assert_close(valuation.group([3], one), scores[:2, 3], rtol=1e-4, atol=1e-6)


def test_a_store_is_asked_again_in_another_process(tmp_path: Path) -> None:
    first = Valuation(network(), nn.CrossEntropyLoss(), method="ekfac", store=tmp_path / "s").log(loader())
    again = Valuation(network(), nn.CrossEntropyLoss(), method="ekfac", store=tmp_path / "s")
    assert torch.equal(again.score(queries()), first.score(queries()))
    assert torch.equal(
        again.losses, functional.cross_entropy(network().eval()(data().tensors[0]), data().tensors[1], reduction="none")
    )


def test_logging_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    whole = Valuation(network(), nn.CrossEntropyLoss(), method="logra", rank=2, fisher="empirical").log(loader())
    parts = Valuation(network(), nn.CrossEntropyLoss(), method="logra", rank=2, fisher="empirical", store=tmp_path)
    batches = list(loader())
    parts.log(batches[:2]).log(batches)
    assert torch.equal(parts.ids, torch.arange(TRAIN))
    torch.testing.assert_close(parts.score(queries()), whole.score(queries()))


@pytest.mark.parametrize(
    "method",
    ["identity", {"name": "fisher", "fisher": "empirical"}, {"name": "logra", "rank": 3, "fisher": "empirical"}],
    ids=str,
)
def test_a_users_own_loop_records_what_logging_logs(method: Any) -> None:
    logged = Valuation(network(), nn.CrossEntropyLoss(), method=method).log(loader())
    model = network().eval()
    own = Valuation(model, nn.CrossEntropyLoss(), method=method)
    for place, (inputs, targets) in enumerate(loader()):
        with own.recording(range(10 * place, 10 * place + len(inputs))) as recorded:
            losses = functional.cross_entropy(model(inputs), targets, reduction="none")
            recorded.losses = losses
            losses.sum().backward()
    assert all(leaf.grad is not None for leaf in model.parameters())
    torch.testing.assert_close(own.score(queries()), logged.score(queries()))
    torch.testing.assert_close(own.losses, logged.losses)


def test_a_loss_of_the_model_and_batch_is_as_good() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def outputs(model: nn.Module, batch: Any) -> Tensor:
        found: Tensor = model(batch[0])
        return found

    first = Valuation(network(), nn.CrossEntropyLoss(), method="kfac").log(loader())
    other = Valuation(network(), loss, outputs=outputs, likelihood="categorical", method="kfac").log(loader())
    assert torch.equal(first.score(queries()), other.score(queries()))


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    members = [Valuation(network(seed), nn.CrossEntropyLoss(), method="trak", dimension=8) for seed in range(2)]
    scores = Ensemble(members, [3.0, 1.0]).log(loader()).score(queries())
    one, other = (member.score(queries()) for member in members)
    torch.testing.assert_close(scores, 0.75 * one + 0.25 * other)


def _batches(texts: Tensor) -> DataLoader[Any]:
    return DataLoader(texts, batch_size=4)  # type: ignore[arg-type]


def test_tokens_are_examples_of_their_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(batch[:, :-1])
        return functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")

    texts = torch.randint(0, 7, (6, 5))
    valuation = Valuation(model, loss, method="identity", tokens=True).log(_batches(texts))
    assert valuation.ids.shape == (6 * 4, 2)
    whole = Valuation(model, lambda model, batch: loss(model, batch).sum(1), method="identity").log(_batches(texts))
    tokens = valuation.score(_batches(texts[:2]))
    summed = tokens.view(2, 4, 6, 4).sum((1, 3))
    torch.testing.assert_close(summed, whole.score(_batches(texts[:2])), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "ekfak"}, "did you mean 'ekfac'"),
        ({"method": "logra", "rang": 4}, "did you mean 'rank'"),
        ({"method": "logra", "rank": 0}, "at least 1"),
        ({"ranks": 4}, "ranks"),
        ({"layers": ["conv9"]}, "conv9"),
        ({"likelihood": "categoricl"}, "did you mean 'categorical'"),
    ],
    ids=["method", "option", "range", "ranks", "layer", "likelihood"],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BettyError, match=words):
        Valuation(network(), nn.CrossEntropyLoss(), **options)


def test_mistakes_in_use_are_named(tmp_path: Path) -> None:
    valuation = Valuation(network(), nn.CrossEntropyLoss(), method="identity", store=tmp_path)
    with pytest.raises(BettyError, match="nothing has been logged"):
        valuation.score(queries())
    with pytest.raises(BettyError, match="shuffled"):
        valuation.log(loader(shuffle=True))
    with pytest.raises(BettyError, match="once only"):
        valuation.log(iter(loader()))
    valuation.log(loader())
    with pytest.raises(BettyError, match="have not been logged"):
        valuation.group([99], queries())
    with pytest.raises(BettyError, match="another model"):
        Valuation(network(1), nn.CrossEntropyLoss(), method="identity", store=tmp_path).score(queries())
    with pytest.raises(BettyError, match="method"):
        Valuation(network(), nn.CrossEntropyLoss(), method="fisher", store=tmp_path).log(loader())
    with pytest.raises(BettyError, match="one loss for each example"):
        Valuation(network(), lambda model, batch: model(batch[0]).sum(), method="identity").log(loader())


def test_shuffled_data_with_ids_is_the_same_valuation() -> None:
    numbered = TensorDataset(*data().tensors, torch.arange(TRAIN))
    shuffled = DataLoader(numbered, batch_size=10, shuffle=True)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    other = Valuation(network(), loss, method="identity").log(shuffled, ids=lambda batch: batch[2])
    first = Valuation(network(), nn.CrossEntropyLoss(), method="identity").log(loader())
    torch.testing.assert_close(other.score(queries()), first.score(queries()))
