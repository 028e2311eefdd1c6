"""From a method and the training data to where gradients are stored and what stands for the inverse curvature."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from betty.backends.torch.influence.corrected import Corrected
from betty.backends.torch.influence.factors import Factors, basis
from betty.backends.torch.influence.inverses import Blocks, Damping, Identity, Moments, Preconditioner, kronecker
from betty.backends.torch.influence.projection import RandomProjection
from betty.backends.torch.influence.solving import Solving
from betty.backends.torch.influence.spaces import LoGra, Space, Whole
from betty.backends.torch.influence.units import Gradients, Unit
from betty.ir.diagnostics import BettyError
from betty.runfolder import write_atomically
from betty.valuation.batches import Batches
from betty.valuation.options import Chosen
from betty.valuation.passes import Sweep

FILE = "fitted.pt"
"""Of the statistics, beside the stored gradients."""

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Fitted:
    """Where gradients are stored, and what stands for the inverse curvature.

    Args:
        space: From gradients to rows.
        inverse: From rows to rows; ``None`` until the store has what it is fitted to.
        rows: Rows of the store that the inverse was fitted to; 0 where it does not depend on them.
    """

    space: Space
    inverse: Preconditioner | None
    rows: int = 0


class Fitter:
    """Carries out the passes over the training data that a method needs before gradients are logged.

    Args:
        method: The method with its options.
        sweep: What gives gradients.
        weight_decay: Of the training loss; part of its curvature.
        offload: Whether sums are kept on the CPU.
        ranks: Of `logra`, by names or patterns of layers; the method's rank for others.
    """

    def __init__(
        self,
        method: Chosen,
        sweep: Sweep,
        *,
        weight_decay: float,
        offload: bool,
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        self.method, self.sweep, self.units = method, sweep, sweep.units
        self.decay, self.offload, self.ranks = weight_decay, offload, dict(ranks or {})

    @property
    def damping(self) -> Damping:
        relative = self.method["damping_units"] == "mean_eigenvalue"
        return Damping(self.method["damping"], relative, self.decay)

    @property
    def labels(self) -> str:
        """Whose labels the Fisher information is of: ``sampled``, ``empirical`` or ``exact``."""
        asked: str = self.method["fisher"]
        known = self.sweep.task.likelihood is not None and self.sweep.task.outputs is not None
        if asked != "auto":
            return asked
        return "sampled" if known and not self.sweep.tokens else "empirical"

    def fit(self, data: Batches, progress: Progress | None = None) -> Fitted:
        """The passes, one after the other."""
        name, tell = self.method.name, progress or _quiet
        if self.method.declared.solves:
            return self._solving(data)
        if name in {"identity", "cosine"}:
            return Fitted(Whole(self.units), Identity())
        if name in {"kfac", "ekfac"}:
            return self._kronecker(data, tell)
        if name == "gauss_newton":
            moments = self._moments(Whole(self.units), self.method["block"] == "whole", self._curved(data, tell))
            return Fitted(Whole(self.units), moments)
        space = self._space(data, tell)
        if name == "trak" or self.labels == "empirical":
            return Fitted(space, None)
        gradients = self._curved(data, tell) if self.labels == "exact" else self._drawn(data, tell)
        return Fitted(space, self._moments(space, self._one_block, gradients))

    def without_data(self) -> Fitted:
        """Where gradients are stored by methods that have no statistics.

        Raises:
            BettyError: The method has some.
        """
        name = self.method.name
        if name in {"identity", "cosine"}:
            return Fitted(Whole(self.units), Identity())
        random = name == "logra" and self.method["init"] == "random"
        if (random or name == "fisher") and self.method["fisher"] in {"auto", "empirical"}:
            return Fitted(self._random() if random else Whole(self.units), None)
        if name == "trak":
            return Fitted(self._random(), None)
        raise BettyError(f"method {name!r} needs statistics of the training data: call fit(train_loader) first")

    def from_store(self, fitted: Fitted, blocks: Iterator[tuple[Tensor, Tensor]], count: int) -> Fitted:
        """The inverse of the second moments of what is stored: the empirical Fisher information.

        Args:
            fitted: Where gradients are stored.
            blocks: Rows and losses.
            count: How many rows there are.
        """
        moments = Moments(fitted.space.dimensions, whole=self._one_block)
        for rows, losses in blocks:
            moments.add(rows, self._features(losses) if self.method.name == "trak" else None)
        return Fitted(fitted.space, moments.finished(self.damping), count)

    @staticmethod
    def _features(losses: Tensor) -> Tensor:
        """What turns outer products of a loss's gradients into those of the margin's.

        With ``p = exp(-loss)`` the margin ``log(p / (1 - p))`` has the gradient ``-grad loss / (1 - p)``: Park et al.
        (2023), arXiv:2303.14186, equation 11.
        """
        if bool(losses.isnan().any()):
            raise BettyError("trak needs the losses of the examples: recorded.losses = losses")
        return (-torch.expm1(-losses.double())).clamp(min=1e-6).square().reciprocal()

    @property
    def _rank(self) -> int | dict[str, int]:
        rank: int = self.method["rank"]
        return {**self.ranks, "*": self.ranks.get("*", rank)} if self.ranks else rank

    @property
    def _one_block(self) -> bool:
        return self.method.options.get("block") == "whole"

    def _solving(self, data: Batches) -> Fitted:
        if self.sweep.sharded:
            raise BettyError(
                f"method {self.method.name}: its products with the curvature need whole parameters, and processes "
                "share those of this model (FSDP): expected kfac, ekfac, "
                "logra, gauss_newton, fisher, trak, identity or cosine"
            )
        inverse = Solving.made(
            self.method.name,
            self.method.options,
            model=self.sweep.model,
            task=self.sweep.task,
            batches=[batch.data for batch in Batches(data.source, data.device)],
            units=self.units,
            damping=self.damping,
            seed=self.sweep.seed,
        )
        return Fitted(Whole(self.units), inverse)

    def _kronecker(self, data: Batches, tell: Progress) -> Fitted:
        factors, others = Factors(self.units, self._kept()), Moments(_vectors(self.units))
        for gradients in self._labelled(data, tell, "factors"):
            factors.add(gradients)
            _add_vectors(others, self.units, gradients)
        among = basis(factors.joined(together), self._device())
        values = dict(among.values)
        if self.method.name == "ekfac":
            corrected = Corrected(self.units, among)
            for gradients in self._labelled(data, tell, "eigenvalues"):
                corrected.add(gradients)
            values = corrected.values(together)
        rest = others.finished(self.damping, together)
        return Fitted(Whole(self.units), kronecker(self.units, among, values, self.damping, rest))

    def _space(self, data: Batches, tell: Progress) -> Space:
        if self.method.name == "fisher":
            return Whole(self.units)
        if self.method.name == "trak" or self.method["init"] == "random":
            return self._random()
        factors = Factors(self.units, self._kept())
        for gradients in self._labelled(data, tell, "factors"):
            factors.add(gradients)
        among, rank = basis(factors.joined(together), self._device()), self._rank
        if self.method["init"] == "pca":
            return LoGra.leading(self.units, among, rank, self.sweep.seed)
        corrected = Corrected(self.units, among)
        for gradients in self._labelled(data, tell, "eigenvalues"):
            corrected.add(gradients)
        return LoGra.chosen(self.units, among, corrected.values(together), rank, self.sweep.seed)

    def _random(self) -> Space:
        if self.method.name == "trak":
            return RandomProjection(self.units, self.method["dimension"], self.sweep.seed)
        first = next(self.sweep.model.parameters())
        kind = first.dtype if first.dtype == torch.float64 else torch.float32
        return LoGra.random(self.units, self._rank, self.sweep.seed, self._device(), kind)

    def _moments(self, space: Space, whole: bool, passes: Iterator[Gradients]) -> Blocks:
        moments = Moments(space.dimensions, whole=whole)
        for gradients in passes:
            moments.add(space.rows(gradients), count=gradients.examples)
        return moments.finished(self.damping, together)

    def _labelled(self, data: Batches, tell: Progress, what: str) -> Iterator[Gradients]:
        if self.labels == "exact":
            yield from self._curved(data, tell, what)
        elif self.labels == "sampled":
            yield from self._drawn(data, tell, what)
        else:
            done = 0
            for batch, gradients, _ in self.sweep.over(data):
                yield gradients
                done += batch.count
                tell(what, done)

    def _drawn(self, data: Batches, tell: Progress, what: str = "curvature") -> Iterator[Gradients]:
        done = 0
        for batch, gradients in self.sweep.drawn(data):
            yield gradients
            done += batch.count
            tell(what, done)

    def _curved(self, data: Batches, tell: Progress, what: str = "curvature") -> Iterator[Gradients]:
        """Gradients whose outer products sum up to the Gauss-Newton matrix: one backward pass an output."""
        done = 0
        for batch, columns in self.sweep.curved(data):
            yield from columns
            done += batch.count
            tell(what, done)

    def _kept(self) -> torch.device | None:
        return torch.device("cpu") if self.offload else None

    def _device(self) -> torch.device:
        return next(self.sweep.model.parameters()).device

    # Kept beside the store

    def keep(self, fitted: Fitted, folder: Path, fingerprint: str) -> None:
        """Write what was fitted beside the store; the first of several processes does."""
        if self.method.declared.solves or (dist.is_initialized() and dist.get_rank()):
            return
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "of": json.dumps({"fingerprint": fingerprint, **self._record()}, sort_keys=True),
            "space": fitted.space.state(),
            "inverse": fitted.inverse.state() if fitted.inverse is not None else None,
        }
        write_atomically(folder / FILE, lambda path: torch.save(state, path))

    def kept(self, folder: Path, fingerprint: str) -> Fitted | None:
        """What was fitted before for this model and method; ``None`` without."""
        path = folder / FILE
        if self.method.declared.solves or not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location=self._device(), weights_only=True)
        if state["of"] != json.dumps({"fingerprint": fingerprint, **self._record()}, sort_keys=True):
            return None
        space = self._restored(state["space"])
        found = state["inverse"]
        if found is None:
            return Fitted(space, None)
        if not found:
            return Fitted(space, Identity())
        whole = {"all": space.size} if self._one_block else space.dimensions
        return Fitted(space, Blocks.restored(whole, found))

    def _record(self) -> dict[str, Any]:
        return {
            **self.method.record(),
            "seed": self.sweep.seed,
            "weight_decay": self.decay,
            "labels": self._labels(),
            **({"ranks": self.ranks} if self.ranks else {}),
        }

    def _labels(self) -> str:
        return self.labels if "fisher" in self.method.options else ""

    def _restored(self, state: dict[str, Tensor]) -> Space:
        if self.method.name == "trak":
            return self._random()
        return LoGra.restored(self.units, state) if self.method.name == "logra" else Whole(self.units)


def _quiet(what: str, done: int) -> None:
    del what, done


def together(tensor: Tensor) -> Tensor:
    """The sum over all processes; the tensor itself in one."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def _vectors(units: Sequence[Unit]) -> dict[str, int]:
    return {unit.name: unit.size for unit in units if not unit.matrix}


def _add_vectors(moments: Moments, units: Sequence[Unit], gradients: Gradients) -> None:
    parts = [gradients.unit(unit) for unit in units if not unit.matrix]
    if parts:
        moments.add(torch.cat(parts, 1), count=gradients.examples)
