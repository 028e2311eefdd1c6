"""Valuation at the end of a training by Lightning; ``pip install 'betty-mlo[lightning]'``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from betty.ir.diagnostics import BettyError
from betty.valuation.valuation import Valuation

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    try:
        from pytorch_lightning.callbacks import Callback
    except ImportError as error:
        raise BettyError("this callback needs lightning: pip install 'betty-mlo[lightning]'") from error


class ValuationCallback(Callback):
    """Log the gradients of the training examples when ``Trainer.fit`` has ended.

        callback = ValuationCallback(loss, store="runs/values", method="ekfac")
        lightning.Trainer(callbacks=[callback]).fit(module, loader)
        callback.valuation.top(test_loader, k=5)

    Args:
        loss: As of :class:`~betty.valuation.Valuation`; its model is the ``LightningModule``.
        store: Folder of the logged gradients.
        method: As of :class:`~betty.valuation.Valuation`.
        options: Of the valuation and its method.
    """

    def __init__(
        self, loss: Any, store: str | Path | None = None, method: str | Mapping[str, Any] = "logra", **options: Any
    ) -> None:
        super().__init__()
        self._loss, self._store, self._method, self._options = loss, store, method, options
        self.valuation: Valuation | None = None

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        loader = trainer.train_dataloader
        if not isinstance(loader, DataLoader):
            raise BettyError(f"the training data is {type(loader).__name__}: expected one DataLoader")
        ordered = DataLoader(loader.dataset, batch_size=loader.batch_size or 64, collate_fn=loader.collate_fn)
        self.valuation = Valuation(pl_module, self._loss, method=self._method, store=self._store, **self._options)
        self.valuation.log(ordered)
