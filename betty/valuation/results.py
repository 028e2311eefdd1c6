"""What is said of queries: the examples that help them most, and those that harm them most."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

SHOWN = 20
"""Queries that a table shows."""


@dataclass(frozen=True, eq=False)
class Top:
    """The most helpful and the most harmful training examples of each query.

    Args:
        helpful: Ids, ``[queries, k]`` int64 (``[queries, k, 2]`` of tokens: example and position), the most helpful
            first: more of them lowers the query's loss.
        helpful_scores: Their scores, ``[queries, k]`` float32; the lowest first.
        harmful: Ids of the most harmful, first the one that raises the query's loss most.
        harmful_scores: Their scores, the highest first.
    """

    helpful: Tensor
    helpful_scores: Tensor
    harmful: Tensor
    harmful_scores: Tensor

    def __len__(self) -> int:
        return len(self.helpful)

    def rows(self) -> Iterator[dict[str, Any]]:
        """A mapping for each query, as JSON holds it."""
        for query in range(len(self)):
            yield {
                "query": query,
                "helpful": _pairs(self.helpful[query], self.helpful_scores[query]),
                "harmful": _pairs(self.harmful[query], self.harmful_scores[query]),
            }

    def table(self) -> Table:
        table = Table("query", "most helpful", "most harmful", box=None, header_style="bold", pad_edge=False)
        for row in list(self.rows())[:SHOWN]:
            table.add_row(str(row["query"]), _listed(row["helpful"]), _listed(row["harmful"]))
        if len(self) > SHOWN:
            table.add_row("...", f"and {len(self) - SHOWN} more queries", "")
        return table

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=120)
        console.print(self.table())
        return str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined]

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _pairs(ids: Tensor, scores: Tensor) -> list[dict[str, Any]]:
    return [{"id": one, "score": score} for one, score in zip(ids.tolist(), scores.tolist(), strict=True)]


def _listed(pairs: list[dict[str, Any]]) -> str:
    return ", ".join(f"{_id(pair['id'])} ({pair['score']:+.2g})" for pair in pairs)


def _id(found: int | list[int]) -> str:
    return ":".join(map(str, found)) if isinstance(found, list) else str(found)


def picked(scores: Tensor, ids: Tensor, k: int) -> Top:
    """The extremes of each row of scores ``[queries, examples]``."""
    k = min(k, scores.shape[1])
    low, helpful = scores.topk(k, dim=1, largest=False)
    high, harmful = scores.topk(k, dim=1)
    return Top(ids[helpful], low, ids[harmful], high)
