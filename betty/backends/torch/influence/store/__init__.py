"""Gradients of examples on disk: memory-mapped shards, an index for each process, checksums and a manifest."""

from __future__ import annotations

from betty.backends.torch.influence.store.manifest import Manifest
from betty.backends.torch.influence.store.reader import Block, Store
from betty.backends.torch.influence.store.writer import Writer

__all__ = ["Block", "Manifest", "Store", "Writer"]
