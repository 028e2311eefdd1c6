"""What lies in the folder of a valuation: the store of gradients, and the statistics beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from betty.backends.torch.influence.store import Manifest, Store
from betty.backends.torch.influence.store.manifest import NAME as MANIFEST
from betty.ir.diagnostics import BettyError
from betty.valuation.fingerprint import ANY, fingerprint
from betty.valuation.fitting import Fitted, Fitter
from betty.valuation.options import Chosen


class Stored:
    """The folder's side of :class:`betty.valuation.Valuation`."""

    folder: Path
    dtype: str
    method: Chosen
    model: nn.Module
    _fitter: Fitter
    _fitted: Fitted | None
    _store: Store | None
    _tokens: bool
    _seed: int
    _weight_decay: float

    def _space(self) -> Fitted:
        if self._fitted is None:
            if (self.folder / MANIFEST).exists():
                self._logged()
            self._fitted = self._fitter.kept(self.folder, self._fingerprint(recorded=False))
        if self._fitted is None and self._logged_without():
            self._fitted = self._fitter.without_data()
        if self._fitted is None:
            raise BettyError(
                "nothing has been logged yet: valuation.log(train_loader), or a store that has been logged to"
            )
        return self._fitted

    def _logged_without(self) -> bool:
        """Whether the store was filled by a loop of the user's, without statistics."""
        return (self.folder / MANIFEST).exists() and self._logged().manifest.fingerprint.endswith(ANY)

    def _logged(self) -> Store:
        if self._store is None:
            found = Store.open(self.folder)
            if wrong := found.manifest.differences(self._manifest(found.manifest.dimensions, recorded=False)):
                raise BettyError("\n  ".join([f"{self.folder}: the store belongs to another model or method", *wrong]))
            self._store = found
        return self._store

    def _made(self, *, recorded: bool) -> Store:
        if self._store is None:
            self._store = Store.create(self.folder, self._manifest(self._space().space.dimensions, recorded=recorded))
        return self._store

    def _manifest(self, dimensions: Mapping[str, int], *, recorded: bool) -> Manifest:
        return Manifest(
            fingerprint=self._fingerprint(recorded=recorded),
            method={**self.method.record(), "seed": self._seed, "weight_decay": self._weight_decay},
            dimensions=dict(dimensions),
            dtype=self.dtype,
            tokens=self._tokens,
        )

    def _fingerprint(self, *, recorded: bool) -> str:
        return fingerprint(self.model, values=not recorded)
