"""How scores agree with reference scores, such as those of an exact solve."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from betty.ir.diagnostics import BettyError
from betty.valuation.trust.measures import cosine, mean, pearson, spearman


@dataclass(frozen=True, eq=False)
class Agreement:
    """How the scores of each query agree with the reference's; tensors are float64 ``[queries]``.

    Args:
        cosine: Of the scores and the reference.
        pearson: Correlation over examples.
        spearman: Rank correlation over examples: whether the same examples come first.
        sign: Part of the examples whose score has the reference's sign.
        scale: The factor by which the reference's scores come nearest to the scores: 1 where sizes agree.
        pairs: How many pairs of query and example there were.
    """

    cosine: Tensor
    pearson: Tensor
    spearman: Tensor
    sign: Tensor
    scale: Tensor
    pairs: int

    def record(self) -> dict[str, float | int]:
        """Means over the queries, as JSON holds them."""
        kinds = ("cosine", "pearson", "spearman", "sign", "scale")
        return {**{kind: mean(getattr(self, kind)) for kind in kinds}, "pairs": self.pairs}


def compare(scores: Tensor, reference: Tensor) -> Agreement:
    """Compare scores with reference scores, query by query.

    Args:
        scores: ``[queries, examples]``.
        reference: Of the same shape.

    Raises:
        BettyError: The shapes differ, or something is not finite.
    """
    if scores.dim() != 2 or scores.shape != reference.shape:
        raise BettyError(
            f"scores {list(scores.shape)} and reference {list(reference.shape)}: expected [queries, examples] twice"
        )
    for name, one in (("scores", scores), ("reference", reference)):
        if not bool(one.isfinite().all()):
            raise BettyError(f"{int((~one.isfinite()).sum())} of the {name} are not finite")
    one, other = scores.double(), reference.double()
    return Agreement(
        cosine=cosine(one, other),
        pearson=pearson(one, other),
        spearman=spearman(one, other),
        sign=(torch.sign(one) == torch.sign(other)).double().mean(1),
        scale=(one * other).sum(1) / other.square().sum(1),
        pairs=one.numel(),
    )
