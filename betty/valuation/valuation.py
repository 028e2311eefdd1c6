"""What each training example is worth to a model, by influence functions."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from betty.backends.torch.influence import scoring
from betty.backends.torch.influence.task import Task
from betty.ir.diagnostics import BettyError
from betty.valuation.batches import Batches, Ids, own_rank, to_batches, token_ids, wait, whole_ids
from betty.valuation.fitting import Fitter
from betty.valuation.losses import Likelihood, to_task
from betty.valuation.options import Chosen, choose
from betty.valuation.passes import Losses
from betty.valuation.recorded import Recorded
from betty.valuation.results import Top
from betty.valuation.setting import sweep_of, unwrapped
from betty.valuation.stored import Stored

if TYPE_CHECKING:
    from betty.valuation.trust import Trust

Progress = Callable[[str, int], None]
"""Told what is being done and how many examples are done."""


class Valuation(Stored):
    r"""The influence of training examples on the losses of queries.

    The score of example ``i`` for query ``q`` is the derivative of the query's loss by the weight of the example in the
    training loss :math:`\frac1N \sum_i w_i l_i + \frac{\mu}{2} |\theta|^2`, at weight one:

    .. math:: s_{qi} = -\frac1N \nabla l_q^\top (H + \delta I)^{-1} \nabla l_i

    with the curvature ``H`` of that loss, of which the method says how it is approximated. A negative score says that
    more of the example lowers the query's loss. ``identity`` and ``cosine`` take no curvature, and no ``1/N``.

    It is a first-order prediction about a model at a minimum: :meth:`check` tells how far it can be trusted.

    Args:
        model: A trained model. It is evaluated in evaluation mode, and left as it is.
        loss: ``loss(outputs, targets)``, such as ``torch.nn.CrossEntropyLoss()``, of batches ``(inputs, targets)``; or
            ``loss(model, batch)`` that gives one loss for each example, ``[n]`` (``[n, t]`` with ``tokens``).
        method: A name of :data:`betty.ir.valuations.VALUATIONS`, or ``{"name": ..., options}``.
        store: Folder of the logged gradients, made or gone on with; a temporary one by default.
        layers: Names, patterns such as ``layers.*`` or types of the layers that are valued; all by default. Parameters
            that are left out are in :attr:`left_out`, with the reason.
        query_loss: What is asked of queries, where it is another loss.
        likelihood: ``categorical``, ``gaussian`` or ``bernoulli``; known for the losses of torch.
        outputs: ``(model, batch) -> logits``, for losses of the second form.
        weight_decay: The ``mu`` of the training loss.
        dtype: Of the store: ``fp32``, ``bf16``, ``int8`` (one scale for each example and layer) or ``fp64``.
        precision: Of the passes: ``fp32``, or ``bf16`` or ``fp16`` under ``torch.autocast``.
        device: Where the model is moved; where it is by default.
        seed: Of projections and drawn labels.
        tokens: Whether every token of a sequence is an example of its own.
        offload: Whether statistics are kept on the CPU.
        ranks: Of ``logra``, by names or patterns of layers; ``rank`` holds for the others.
        options: Of the method, such as ``rank=64``.

    Raises:
        BettyError: An argument is wrong; all that is wrong with the method in one message.

    Reference: Koh and Liang (2017), arXiv:1703.04730; Choe et al. (2024), arXiv:2405.13954 (LoGra); Grosse et al.
    (2023), arXiv:2308.03296 (EK-FAC); Park et al. (2023), arXiv:2303.14186 (TRAK).
    """

    def __init__(  # noqa: PLR0913 - one keyword for each independent choice
        self,
        model: nn.Module,
        loss: Callable[..., Any] | Task,
        *,
        method: str | Mapping[str, Any] = "logra",
        store: str | Path | None = None,
        layers: Sequence[str | type[nn.Module]] | None = None,
        query_loss: Callable[..., Any] | Task | None = None,
        likelihood: Likelihood | None = None,
        outputs: Callable[[nn.Module, Any], Tensor] | None = None,
        weight_decay: float = 0.0,
        dtype: Literal["fp32", "bf16", "int8", "fp64"] = "fp32",
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        device: str | torch.device | None = None,
        seed: int = 0,
        tokens: bool = False,
        offload: bool = False,
        ranks: Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        self.method: Chosen = choose(method, options)
        if not isinstance(ranks, Mapping | None):
            raise BettyError(f"ranks: found {ranks!r}, expected ranks by layer, {{'blocks.*': 8}}; rank is for all")
        self.model = unwrapped(model if device is None else model.to(device))
        self.task = to_task(loss, likelihood, outputs)
        self._query: Losses = (self.task if query_loss is None else to_task(query_loss)).losses
        self._sweep = sweep_of(self.model, self.task, layers, precision, tokens=tokens, seed=seed)
        self._fitter = Fitter(self.method, self._sweep, weight_decay=weight_decay, offload=offload, ranks=ranks)
        self.folder = Path(tempfile.mkdtemp(prefix="betty-values-") if store is None else store)
        if store is None:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.dtype, self._tokens, self._seed, self._weight_decay = dtype, tokens, seed, weight_decay
        self._fitted, self._store = None, None
        self._data: Batches | None = None
        self._asked: tuple[int, Tensor] | None = None
        self._own: tuple[int, Tensor] | None = None

    # What is valued

    @property
    def units(self) -> tuple[Any, ...]:
        """The layers that take part, with the shapes of their gradients."""
        return self._sweep.units

    @property
    def left_out(self) -> Mapping[str, str]:
        """Parameters that take no part, and why."""
        return self._sweep.recorder.left_out

    @property
    def size(self) -> int:
        """Numbers stored for each example.

        Raises:
            BettyError: The statistics have not been fitted yet.
        """
        return self._space().space.size

    @property
    def ids(self) -> Tensor:
        """Ids of the logged examples, ascending: the columns of scores. int64 ``[examples]`` (``[tokens, 2]``)."""
        return self._logged().ids

    @property
    def losses(self) -> Tensor:
        """The training losses of the logged examples, float32, in the order of :attr:`ids`."""
        return self._logged().losses

    @property
    def bytes_on_disk(self) -> int:
        return self._logged().bytes_on_disk

    # Logging

    def fit(self, data: Any, *, ids: Ids | None = None, progress: Progress | None = None) -> Valuation:
        """Gather the statistics of the method over the training data: covariances, eigenvectors, projections.

        :meth:`log` does so where it is needed; call it before :meth:`recording` for methods that need it. Statistics
        are kept in the store, and taken from there where they belong to this model and method.
        """
        self._data = to_batches(data, self._device(), ids, share=True, even=self._sweep.sharded)
        self._fitted = self._fitter.kept(self.folder, self._fingerprint(recorded=False))
        if self._fitted is None:
            self._fitted = self._fitter.fit(self._data, progress)
            self._fitter.keep(self._fitted, self.folder, self._fingerprint(recorded=False))
        return self

    def log(self, data: Any, *, ids: Ids | None = None, progress: Progress | None = None) -> Valuation:
        """Store the gradient of every training example, in one pass beside those of the statistics.

        What the store has already is passed over, so that an interrupted call is gone on with by the same call. In
        several processes (``torch.distributed``), every one takes its part of the batches, and all have to call this.

        Args:
            data: A ``DataLoader`` in the data's own order, a data set, or a list of batches.
            ids: From a batch to the ids of its examples; their places in the data by default.
            progress: Told what is being done, and how many examples are done.

        Raises:
            BettyError: The store is another model's or method's, or ids are given twice.
            RunError: Gradients are not finite, or the store cannot be written.
        """
        self.fit(data, ids=ids, progress=progress)
        assert self._data is not None
        store = self._made(recorded=False)
        known, done = store.logged(), 0
        with store.writer(own_rank()) as writer:
            for batch, rows, losses in self._rows(self._data, known):
                writer.append(batch, rows, losses)
                done += len(rows)
                if progress is not None:
                    progress("logging", done)
        wait()
        store.refresh()
        return self

    def _rows(self, data: Batches, known: set[Any]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Ids, stored gradients and losses of the batches that are not in the store yet."""
        space = self._space().space
        with self._sweep.evaluating():
            for batch in data:
                done = batch.spare or (bool(known) and all(one in known for one in batch.ids.tolist()))
                if done and not self._sweep.sharded:
                    continue
                taken, losses = self._sweep.gradients(batch, self.task.losses)
                if done:
                    continue
                ids = token_ids(batch.ids, losses.shape[1]) if self._tokens else batch.ids
                yield ids, space.rows(taken), losses.flatten()

    @contextmanager
    def recording(self, ids: Any) -> Iterator[Recorded]:
        """Store the gradients of the examples that a backward pass within goes through, in the user's own loop.

            with valuation.recording(ids) as recorded:
                losses = loss(model(x), y)
                recorded.losses = losses          # for `trak` and reports; may be left out
                losses.sum().backward()

        The backward pass is that of the *sum* of the losses of the examples; parameters' ``grad`` are filled as ever.
        The model may be in training: then the scores are of the gradients as they were when they were recorded.

        Args:
            ids: Of the examples, whole numbers ``[n]``.

        Raises:
            BettyError: The method needs statistics, and :meth:`fit` has not been called; ids are given twice.
        """
        if self._fitted is None:
            self._fitted = self._fitter.without_data()
        store = self._made(recorded=True)
        found = whole_ids(ids, len(ids))
        recorded = Recorded()
        with self._sweep.recorder.recording(len(found)):
            yield recorded
        taken = self._sweep.recorder.take(len(found))
        if self._sweep.fallback is not None:
            raise BettyError(self._sweep.fallback.refused())
        with store.writer(own_rank()) as writer:
            writer.append(found, self._fitted.space.rows(taken), recorded.of(len(found)))
        store.refresh()

    # Asking

    def gradients(self, queries: Any) -> Tensor:
        """The queries' gradients as they are stored for examples, ``[queries, size]``."""
        space = self._space().space
        batches = to_batches(queries, self._device())
        parts = [space.rows(taken).cpu() for _, taken, _ in self._sweep.over(batches, self._query)]
        return torch.cat(parts) if parts else torch.zeros(0, space.size)

    def score(self, queries: Any, *, relative: bool = False) -> Tensor:
        r"""The influence of every logged example on every query.

        Args:
            queries: A ``DataLoader``, a data set, a list of batches, or one batch.
            relative: Divide by the root of the example's self-influence, which takes atypical examples down:
                :math:`\ell`-RelatIF, Barshan et al. (2020), arXiv:2003.11630, section 3.2.

        Returns:
            float32 ``[queries, examples]`` on the CPU; columns in the order of :attr:`ids`. The store is streamed in
            blocks, so that memory is that of the result.
        """
        asked, scale, divisor = self._question(queries, relative)
        return scoring.score(self._logged(), asked, scale=scale, relative=divisor)

    def top(self, queries: Any, k: int = 10, *, relative: bool = False) -> Top:
        """The ``k`` most helpful and most harmful examples of each query; memory does not grow with their number."""
        asked, scale, divisor = self._question(queries, relative)
        store = self._logged()
        found = [
            scoring.top(store, asked, min(k, len(store)), largest=largest, scale=scale, relative=divisor)
            for largest in (False, True)
        ]
        (low, helpful), (high, harmful) = found
        return Top(store.ids[helpful], low, store.ids[harmful], high)

    def self_influence(self) -> Tensor:
        r"""How much each logged example lowers its own loss, float32 ``[examples]``: high for wrong labels.

        :math:`\frac1N \nabla l_i^\top (H + \delta I)^{-1} \nabla l_i`, not negative.
        """
        store = self._logged()
        if self._own is None or self._own[0] != len(store):
            inverse = self._inverse()
            scale = 1.0 if self.method.plain else 1.0 / self._count()
            self._own = len(store), scoring.self_influence(store, inverse.solve, scale=scale)
        return self._own[1]

    def group(self, ids: Any, queries: Any = None) -> Tensor:
        """The joint influence of a group of examples: the sum of their scores.

        Args:
            ids: Of the group.
            queries: As for :meth:`score`; by default those that were asked about last.

        Returns:
            float32 ``[queries]``.
        """
        if queries is not None:
            self._question(queries, relative=False)
        if self._asked is None:
            raise BettyError("group: no queries have been asked about yet: group(ids, queries)")
        asked, scale = self._asked[1], self._scale()
        return scoring.group(self._logged(), asked, self.places(ids), scale=scale)

    def places(self, ids: Any) -> Tensor:
        """The columns of examples, by their ids, int64.

        Raises:
            BettyError: Some have not been logged.
        """
        known = self.ids if self.ids.dim() == 1 else self.ids[:, 0].contiguous()
        asked = whole_ids(ids, len(ids))
        if self._tokens:
            return torch.isin(known, asked).nonzero().flatten()
        if absent := asked[~torch.isin(asked, known)].tolist():
            raise BettyError(f"{len(absent)} of {len(asked)} ids have not been logged, such as {absent[0]}")
        return torch.searchsorted(known, asked)

    def export(self, path: str | Path) -> Path:
        """Write ids, losses and stored gradients as ``.npz``, ``.parquet`` or a folder of Hugging Face ``datasets``."""
        from betty.valuation.export import export

        written: Path = export(self._logged(), Path(path))
        return written

    def check(self, queries: Any, **options: Any) -> Trust:
        """How far scores can be trusted: beside exact influence, and beside training again.

        Args:
            queries: As for :meth:`score`.
            options: As of :func:`betty.valuation.trust.check.check`: ``train``, ``retrainings``, ``reference``, ...
        """
        from betty.valuation.trust.check import check

        return check(self, queries, **options)

    def report(self, path: str | Path, queries: Any = None, **options: Any) -> Path:
        """Write a page that shows queries with their examples, values, and self-influence against loss.

        Args:
            path: Of the HTML file, which loads nothing.
            queries: As for :meth:`score`; self-influence alone without.
            options: As of :func:`betty.valuation.report.making.report`: ``show``, ``labels``, ``trust``, ...
        """
        from betty.valuation.report.making import report

        return report(self, queries, path, **options)

    # Within

    def _question(self, queries: Any, relative: bool) -> tuple[Tensor, float, Tensor | None]:
        solved = self._inverse().solve(self.gradients(queries))
        if self.method.name == "cosine":
            solved = torch.nn.functional.normalize(solved, dim=1)
        self._asked = len(solved), solved
        divisor = scoring.norms(self._logged()) if self.method.name == "cosine" else None
        if relative:
            own = self.self_influence()
            divisor = own.clamp(min=float(own.max()) * 1e-12).sqrt()
        return solved, self._scale(), divisor

    def _scale(self) -> float:
        return -1.0 if self.method.plain else -1.0 / self._count()

    def _count(self) -> int:
        """How many examples (not tokens) the training loss is the mean of."""
        ids = self.ids
        return max(1, len(ids) if ids.dim() == 1 else len(ids[:, 0].unique()))

    def _inverse(self) -> Any:
        fitted = self._space()
        if fitted.inverse is None or fitted.rows not in (0, len(self._logged())):
            store = self._logged()
            blocks = ((block.rows, block.losses) for block in store.blocks())
            self._fitted = fitted = self._fitter.from_store(fitted, blocks, len(store))
        return fitted.inverse

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device
