"""EK-FAC beside kronfluence's, where that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from betty.valuation import Valuation

DAMPING = 0.1
"""Of the mean eigenvalue, as theirs by default."""


def data(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    return TensorDataset(inputs, torch.randint(0, 4, (count,), generator=generator))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))


def theirs(folder: Path) -> Tensor:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classification(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    task = Classification()
    analyzer = Analyzer(
        "values", prepare_model(network(), task), task, cpu=True, output_dir=str(folder), disable_tqdm=True
    )
    factors = FactorArguments(strategy="ekfac", use_empirical_fisher=True)
    analyzer.fit_all_factors("f", data(80, 0), per_device_batch_size=20, factor_args=factors)
    analyzer.compute_pairwise_scores(
        "s",
        "f",
        query_dataset=data(9, 1),
        train_dataset=data(80, 0),
        per_device_query_batch_size=9,
        per_device_train_batch_size=20,
        score_args=ScoreArguments(damping_factor=None),
    )
    found: Tensor = analyzer.load_pairwise_scores("s")["all_modules"]
    return found


@pytest.mark.filterwarnings("ignore")
def test_ekfac_is_that_of_kronfluence(tmp_path: Path) -> None:
    pytest.importorskip("kronfluence")
    method = {"name": "ekfac", "fisher": "empirical", "damping": DAMPING}
    valuation = Valuation(network(), nn.CrossEntropyLoss(), method=method)
    own = valuation.log(DataLoader(data(80, 0), batch_size=20)).score(data(9, 1))
    scores = -theirs(tmp_path) / 80  # they have no 1/N, and the other sign
    assert float((own - scores).norm() / scores.norm()) < 1e-3
