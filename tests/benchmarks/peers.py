"""Other libraries of data attribution behind one call, for benchmarks; each takes part where it can be imported.

Scores are in the sign of this project: below zero where an example helps. ``pip install kronfluence dattri traker``
gives them; LogIX (arXiv:2405.13954) is not on PyPI, where the name belongs to something else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

Peer = Callable[[nn.Module, TensorDataset, TensorDataset], Tensor]
DAMPING = 1e-3


def _kronfluence_task() -> Any:
    from kronfluence.task import Task

    class Classification(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            outputs = model(batch[0])
            labels = torch.distributions.Categorical(logits=outputs.detach()).sample() if sample else batch[1]
            return functional.cross_entropy(outputs, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    return Classification()


def kronfluence(strategy: str, *, empirical: bool, own: bool = False) -> Peer:
    """Its scores by ``kfac`` or ``ekfac``; of the training examples on themselves where ``own``, ``[examples]``."""

    def scores(model: nn.Module, train: TensorDataset, queries: TensorDataset) -> Tensor:
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments

        task = _kronfluence_task()
        with tempfile.TemporaryDirectory() as folder:
            analyzer = Analyzer("v", prepare_model(model, task), task, cpu=True, output_dir=folder, disable_tqdm=True)
            arguments = FactorArguments(strategy=strategy, use_empirical_fisher=empirical)
            analyzer.fit_all_factors("f", train, per_device_batch_size=135, factor_args=arguments)
            if own:
                analyzer.compute_self_scores("s", "f", train, per_device_train_batch_size=135)
                mine: Tensor = analyzer.load_self_scores("s")["all_modules"]
                return mine
            analyzer.compute_pairwise_scores(
                "s", "f", queries, train, per_device_query_batch_size=149, per_device_train_batch_size=135
            )
            found: Tensor = analyzer.load_pairwise_scores("s")["all_modules"]
            return -found

    return scores


def dattri(name: str, **options: Any) -> Peer:
    """The scores of one of its attributors of influence functions, with its ``torch.func`` loss."""

    def scores(model: nn.Module, train: TensorDataset, queries: TensorDataset) -> Tensor:
        from dattri.algorithm import influence_function
        from dattri.task import AttributionTask

        def loss(parameters: Any, data: Any) -> Tensor:
            inputs, labels = data
            outputs = torch.func.functional_call(model, parameters, (inputs,))
            return functional.cross_entropy(outputs, labels)

        task = AttributionTask(loss_func=loss, model=model, checkpoints=dict(model.named_parameters()))
        attributor = getattr(influence_function, name)(task=task, **options)
        attributor.cache(DataLoader(train, batch_size=len(train), sampler=SequentialSampler(train)))
        found: Tensor = attributor.attribute(
            # In one batch: it solves for the queries again beside each.
            DataLoader(train, batch_size=len(train), sampler=SequentialSampler(train)),
            DataLoader(queries, batch_size=149, sampler=SequentialSampler(queries)),
        )
        return -found.detach().T

    return scores


def trak(dimension: int) -> Peer:
    """TRAK's own scores by one model."""

    def scores(model: nn.Module, train: TensorDataset, queries: TensorDataset) -> Tensor:
        from trak import TRAKer
        from trak.projectors import BasicProjector, ProjectionType

        size = sum(one.numel() for one in model.parameters())
        projector = BasicProjector(
            grad_dim=size,
            proj_dim=dimension,
            seed=0,
            proj_type=ProjectionType.rademacher,
            device=torch.device("cpu"),
            dtype=torch.float32,
            block_size=64,
        )
        state = {name: value.clone() for name, value in model.state_dict().items()}
        with tempfile.TemporaryDirectory() as folder:
            traker = TRAKer(
                model,
                "image_classification",
                len(train),
                save_dir=folder,
                device="cpu",
                projector=projector,
                proj_dim=dimension,
                use_half_precision=False,
                logging_level=40,
            )
            traker.load_checkpoint(state, model_id=0)
            for batch in DataLoader(train, batch_size=135):
                traker.featurize(batch, num_samples=len(batch[0]))
            traker.finalize_features()
            traker.start_scoring_checkpoint("q", state, model_id=0, num_targets=len(queries))
            for batch in DataLoader(queries, batch_size=149):
                traker.score(batch, num_samples=len(batch[0]))
            return -torch.from_numpy(traker.finalize_scores("q")).float().T

    return scores


PEERS: dict[str, tuple[str, Peer]] = {
    "kronfluence ekfac": ("kronfluence", kronfluence("ekfac", empirical=False)),
    "kronfluence kfac": ("kronfluence", kronfluence("kfac", empirical=False)),
    "kronfluence ekfac fisher=empirical": ("kronfluence", kronfluence("ekfac", empirical=True)),
    "kronfluence kfac fisher=empirical": ("kronfluence", kronfluence("kfac", empirical=True)),
    "dattri cg": ("dattri", dattri("IFAttributorCG", max_iter=10, regularization=DAMPING)),
    "dattri arnoldi": ("dattri", dattri("IFAttributorArnoldi", max_iter=50, proj_dim=25)),
    "trak 1024": ("trak", trak(1024)),
}
"""The package of each, and what scores. At its own defaults (100 steps, 100 directions) dattri's Arnoldi iteration is
uncorrelated with training again on these models."""


def installed() -> dict[str, Peer]:
    """The peers that can be imported; what is missing is printed."""
    missing = sorted({package for package, _ in PEERS.values() if find_spec(package) is None})
    if missing:
        print(f"not installed: {', '.join(missing)}")
    return {name: peer for name, (package, peer) in PEERS.items() if package not in missing}
