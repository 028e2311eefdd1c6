"""Which sentences a language model has learned capitals from, by several methods.

python examples/language_model_valuation/values.py [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent))

from program import (
    Corpus,
    LanguageModel,
    answer_losses,
    capitals,
    corpus,
    logits,
    losses,
    questions,
    sentences,
)

from betty.valuation import Valuation

METHODS: dict[str, dict[str, Any]] = {
    "logra, rank 16": {"method": "logra", "rank": 16},
    "logra, rank 16, ekfac": {"method": "logra", "rank": 16, "init": "ekfac"},
    "logra, rank 4": {"method": "logra", "rank": 4},
    "ekfac": {"method": "ekfac"},
    "gradient dot product": {"method": "identity"},
    "cosine of gradients": {"method": "cosine"},
}


def trained(seed: int, updates: int = 800) -> LanguageModel:
    """The model, trained as the spec has it."""
    torch.manual_seed(seed)
    model = LanguageModel(seed)
    (texts,) = sentences(seed).tensors
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=updates)
    for _ in range(updates):
        rows = torch.randint(len(texts), (50,))
        optimizer.zero_grad()
        losses([texts[rows]], model).mean().backward()
        optimizer.step()
        schedule.step()
    return model


def recall(scores: Tensor, found: Corpus, first: int) -> float:
    """The part of the planted sentences that are among the ``first`` most helpful of their question, by mean."""
    order = scores.argsort(1)[:, :first].tolist()
    parts = [len({*row} & {*told}) / len(told) for row, told in zip(order, found.planted, strict=True)]
    return sum(parts) / len(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    found, model = corpus(seed), trained(seed)
    size = sum(leaf.numel() for leaf in model.parameters())
    known = float(capitals(model, seed)["capitals"])
    print(f"{len(found.sentences)} sentences, {size:,} parameters, capitals learned {known:.2f}")
    print(f"\n{'planted sentences among the first':<36} 10     5     2   numbers a sentence   seconds")
    data, asked = DataLoader(sentences(seed), batch_size=50), DataLoader(questions(seed), batch_size=25)
    for name, options in METHODS.items():
        start = time.perf_counter()
        valuation = Valuation(
            model,
            lambda model, batch: losses(batch, model),
            query_loss=lambda model, batch: answer_losses(batch, model),
            outputs=lambda model, batch: logits(batch, model),
            **options,
        )
        scores = valuation.log(data).score(asked)
        parts = "".join(f"{recall(scores, found, first):6.2f}" for first in (10, 5, 2))
        print(f"{name:<33}{parts}{valuation.size:>16,}{time.perf_counter() - start:>16.1f}")
    drawn = torch.rand(len(found.facts), len(found.sentences), generator=torch.Generator().manual_seed(0))
    print(f"{'chance':<33}" + "".join(f"{recall(drawn, found, first):6.2f}" for first in (10, 5, 2)))
    for question in range(3):
        country, capital = found.facts[question]
        print(f"\n{country}: {capital}")
        for place in scores[question].argsort()[:4].tolist():
            mark = "*" if place in found.planted[question] else " "
            print(f"  {mark} {float(scores[question, place]):+.3f}  {found.sentences[place]}")


if __name__ == "__main__":
    main()
