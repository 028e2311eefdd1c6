"""Valuation at the end of a training by the Hugging Face ``Trainer``; ``pip install 'betty-mlo[transformers]'``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from betty.ir.diagnostics import BettyError
from betty.valuation.batches import moved
from betty.valuation.callbacks.sequences import hugging_face
from betty.valuation.valuation import Valuation

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise BettyError("this callback needs transformers: pip install 'betty-mlo[transformers]'") from error


class ValuationCallback(TrainerCallback):
    """Log the gradients of the training examples when a ``Trainer`` has ended.

        callback = ValuationCallback(store="runs/values", method="logra", rank=64)
        Trainer(model, args, train_dataset=data, callbacks=[callback]).train()
        callback.top(test_data, k=5)

    Args:
        store: Folder of the logged gradients.
        method: As of :class:`~betty.valuation.Valuation`.
        data: What is logged; the data that was trained on by default, in its own order.
        loss: As of :class:`~betty.valuation.Valuation`; cross-entropy of classes or of the next word, or the squared
            error, as Hugging Face's models have them, by default.
        batch_size: Examples of a batch; the trainer's by default.
        options: Of the valuation and its method.
    """

    def __init__(
        self,
        store: str | Path | None = None,
        method: str | Mapping[str, Any] = "logra",
        *,
        data: Dataset[Any] | None = None,
        loss: Any = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        self._store, self._method, self._data, self._loss = store, method, data, loss
        self._size, self._options = batch_size, options
        self._collate: Any = None
        self.valuation: Valuation | None = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loader, model = kwargs["train_dataloader"], kwargs["model"]
        self._collate = getattr(loader, "collate_fn", None)
        size = self._size or args.per_device_train_batch_size
        ordered = DataLoader(self._data or loader.dataset, batch_size=size, collate_fn=self._plain)
        device = next(model.parameters()).device
        task = self._loss or hugging_face(model, moved(next(iter(ordered)), device))
        self.valuation = Valuation(model, task, method=self._method, store=self._store, **self._options)
        self.valuation.log(ordered)

    def top(self, queries: Dataset[Any], k: int = 10, **options: Any) -> Any:
        """The most helpful and most harmful examples of each query; see :meth:`Valuation.top`."""
        return self._done().top(self.loader(queries), k, **options)

    def score(self, queries: Dataset[Any], **options: Any) -> Any:
        """The influence of every example on every query; see :meth:`Valuation.score`."""
        return self._done().score(self.loader(queries), **options)

    def loader(self, queries: Dataset[Any]) -> DataLoader[Any]:
        """Queries in batches as the trainer made them of its data."""
        return DataLoader(queries, batch_size=self._size or 8, collate_fn=self._plain)

    def _plain(self, examples: list[Any]) -> dict[str, Any]:
        return dict(self._collate(examples)) if self._collate else dict(examples[0])

    def _done(self) -> Valuation:
        if self.valuation is None:
            raise BettyError("the training has not ended yet, so that nothing is logged")
        return self.valuation
