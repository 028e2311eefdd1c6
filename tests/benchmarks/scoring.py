"""Scoring 1,000 queries against 200,000 examples at rank 16 of two layers: the fraction of a plain product's rate."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import torch

from betty.backends.torch.influence import scoring
from betty.backends.torch.influence.store import Manifest, Store

QUERIES, EXAMPLES, RANK, LAYERS = 1000, 200_000, 16, 2


def main() -> None:
    torch.set_num_threads(1)
    size = LAYERS * RANK**2
    manifest = Manifest("benchmark-x", {"name": "logra", "rank": RANK}, {f"layer{n}": RANK**2 for n in range(LAYERS)})
    queries = torch.randn(QUERIES, size)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder), manifest)
        with store.writer() as writer:
            for first in range(0, EXAMPLES, 2000):
                writer.append(torch.arange(first, first + 2000), torch.randn(2000, size), torch.zeros(2000))
        store.refresh()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        block, plain = torch.randn(16384, size), []
        for _ in range(8):
            start = time.perf_counter()
            torch.mm(queries, block.T)
            plain.append((time.perf_counter() - start) / len(block))
        expected = min(plain) * EXAMPLES
        for _ in range(2):  # checksums are compared at the first
            start = time.perf_counter()
            scoring.top(store, queries, 10, largest=True)
            best = time.perf_counter() - start
        start = time.perf_counter()
        scoring.score(store, queries[:250])
        whole = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{QUERIES:,} queries x {EXAMPLES:,} examples x {size} numbers, one thread")
    print(f"the products alone      {expected:7.2f} s")
    print(f"the 10 best of each     {best:7.2f} s   {expected / best:.2f} of the product's rate")
    print(f"all scores, 250 queries {whole:7.2f} s   {expected / 4 / whole:.2f} of the product's rate")
    print(f"memory beyond the store's writing {peak:.0f} MiB")


if __name__ == "__main__":
    main()
