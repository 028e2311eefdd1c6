"""Data in its own order: every example once, none shuffled and none dropped, as often as it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler

from betty.backends.torch.errors import RunError
from betty.backends.torch.stream import Loading, as_loader, to_device

BATCH = 64
"""Examples of a batch, of a data set that is trained on as a whole."""


class Ordered:
    """The batches of a problem's data.

    Args:
        problem: Name, for messages.
        source: Makes the data; called again for each round where it gives an iterator.
        loading: How a data set is cut; what it says of shuffling and dropping does not count.
        device: Where tensors go.
        dtype: What floating-point tensors become, or ``None`` to leave them.
    """

    def __init__(
        self,
        problem: str,
        source: Callable[[], Any],
        loading: Loading,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.problem = problem
        self._source, self._loading, self._device, self._dtype = source, loading, device, dtype
        self._made: Any = None
        self._used: Any = None

    def __iter__(self) -> Iterator[Any]:
        made = self._loader()
        if isinstance(made, Iterator):  # a round uses it up
            if made is self._used:
                raise RunError(
                    f"the data of {self.problem!r} can be gone through once only: expected a data set, a list of "
                    "batches, or a function that makes the data anew"
                )
            self._made, self._used = None, made
        return (to_device(batch, self._device, self._dtype) for batch in made)

    def _loader(self) -> Any:
        if self._made is None:
            data, loading = self._source(), self._loading
            if isinstance(data, Dataset) and loading.batch_size is None:
                loading = replace(loading, batch_size=BATCH)  # what one step may take at once is too much here
            self._made = in_order(as_loader(data, loading, self.problem))
        return self._made

    @property
    def dataset(self) -> Any:
        """The examples one by one, where the data has them; else ``None``."""
        found = getattr(self._loader(), "dataset", None)
        return None if isinstance(found, IterableDataset) else found

    @property
    def examples(self) -> int:
        """How many there are; 0 where that is not known without going through them."""
        if self.dataset is not None:
            return len(self.dataset)
        made = self._loader()
        return sum(map(size_of, made)) if isinstance(made, list | tuple) else 0


def size_of(batch: Any) -> int:
    """Examples of a batch: the length of its first tensor; 0 without one."""
    found = next((leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), None)
    return 0 if found is None else len(found)


def in_order(loader: Any) -> Any:
    """What gives the same examples as ``loader``, each once, in the data's own order."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader
    data: Any = loader.dataset
    options: dict[str, Any] = {"num_workers": loader.num_workers, "collate_fn": loader.collate_fn}
    size = loader.batch_size or getattr(loader.sampler, "batch_size", None)
    size = size or getattr(loader.batch_sampler, "batch_size", None)
    if loader.batch_size is None and loader.batch_sampler is None and size:
        batches = BatchSampler(SequentialSampler(data), size, drop_last=False)
        return DataLoader(data, sampler=batches, batch_size=None, **options)
    return DataLoader(data, batch_size=size or 1, shuffle=False, drop_last=False, **options)
