"""Questions to a store, answered from a stream of its blocks: one matrix product each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from betty.backends.torch.influence.store import Block, Store


def score(store: Store, queries: Tensor, *, scale: float = 1.0, relative: Tensor | None = None) -> Tensor:
    """``scale * queries rows^T``, float32 ``[q, N]`` on the CPU.

    Args:
        store: The rows.
        queries: ``[q, size]``, preconditioned.
        scale: Of all scores.
        relative: What the score of each example is divided by, ``[N]``.
    """
    found = torch.empty(len(queries), len(store))
    for block in store.blocks():
        found[:, block.positions] = _scores(block, queries, scale, relative)
    return found


def _scores(block: Block, queries: Tensor, scale: float, relative: Tensor | None) -> Tensor:
    rows = block.rows.to(queries.device)
    found = (queries.to(rows) @ rows.T).float().cpu()
    found *= scale
    return found if relative is None else found.div_(relative[block.positions])


def top(
    store: Store,
    queries: Tensor,
    k: int,
    *,
    largest: bool,
    scale: float = 1.0,
    relative: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The ``k`` highest or lowest scores of each query and the examples' positions, ``[q, k]`` each, in order.

    Kept while the store is streamed: memory does not grow with the number of examples.
    """
    values, places = torch.zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.int64)
    for block in store.blocks():
        found = _scores(block, queries, scale, relative)
        some, at = found.topk(min(k, found.shape[1]), dim=1, largest=largest)
        values = torch.cat([values, some], 1)
        places = torch.cat([places, block.positions[at]], 1)
        values, kept = values.topk(min(k, values.shape[1]), dim=1, largest=largest)
        places = places.gather(1, kept)
    return values, places


def self_influence(store: Store, solve: Callable[[Tensor], Tensor], *, scale: float = 1.0) -> Tensor:
    """``scale * <row, solve(row)>`` of each example, float32 ``[N]``."""
    found = torch.empty(len(store))
    for block in store.blocks():
        found[block.positions] = ((block.rows * solve(block.rows)).sum(1) * scale).float().cpu()
    return found


def norms(store: Store) -> Tensor:
    """The length of each row, float32 ``[N]``; one where it is zero."""
    found = torch.empty(len(store))
    for block in store.blocks():
        found[block.positions] = block.rows.norm(dim=1).float()
    return torch.where(found > 0, found, torch.ones_like(found))


def group(store: Store, queries: Tensor, positions: Tensor, *, scale: float = 1.0) -> Tensor:
    """The sum of the scores of the examples at ``positions``, float32 ``[q]``."""
    member = torch.zeros(len(store), dtype=torch.bool)
    member[positions] = True
    total = torch.zeros(len(queries))
    for block in store.blocks():
        inside = member[block.positions]
        if bool(inside.any()):
            total += scale * (queries.cpu() @ block.rows[inside].to(queries.cpu()).sum(0)).float()
    return total
