"""A small language model, trained on generated sentences in which facts are planted.

Each of 25 invented countries has a capital, told in two sentences of different wording among many that say nothing of
it. The question is which training sentences a model's knowledge of a capital comes from: the two must be found.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

COUNTRIES, OTHERS, LENGTH = 25, 950, 12
"""Countries whose capitals are planted, sentences that say nothing of capitals, and words of the longest sentence."""
PLANTED = ("the capital of {country} is {capital}", "in {country} the largest city and seat of power is {capital}")
"""The wordings of a fact."""
ASKED = PLANTED[0]
PAD, START = "<pad>", "<start>"

SUBJECTS = ["sailor", "baker", "poet", "farmer", "judge", "tailor", "miller", "doctor", "painter", "driver"]
VERBS = ["sees", "finds", "carries", "paints", "sells", "hides", "counts", "cleans", "breaks", "wants"]
OBJECTS = ["lamp", "boat", "stone", "letter", "apple", "ring", "basket", "clock", "chair", "map"]
COLOURS = ["red", "green", "old", "small", "heavy", "bright", "broken", "wooden"]
PLACES = ["harbour", "forest", "market", "kitchen", "garden", "tower", "bridge", "valley"]


def invented(rng: random.Random, count: int, ending: str) -> list[str]:
    """Names that sound like something and mean nothing, all different."""
    names: list[str] = []
    while len(names) < count:
        name = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(2)) + ending
        if name not in names:
            names.append(name)
    return names


@dataclass(frozen=True)
class Corpus:
    """Sentences, and which of them tell what.

    Args:
        sentences: All training sentences, in a random order.
        facts: Country and capital.
        planted: For each country, the places of the sentences that tell its capital.
        words: The vocabulary, padding and the start of a sentence first.
    """

    sentences: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    planted: tuple[tuple[int, ...], ...]
    words: tuple[str, ...]

    def encoded(self, sentences: tuple[str, ...]) -> Tensor:
        """Words as numbers, ``[n, LENGTH + 1]``: a start, the sentence, and padding."""
        known = {word: place for place, word in enumerate(self.words)}
        rows = [[START, *sentence.split()] for sentence in sentences]
        return torch.tensor([[known[word] for word in row] + [0] * (LENGTH + 1 - len(row)) for row in rows])


@cache
def corpus(seed: int) -> Corpus:
    rng = random.Random(seed)
    facts = tuple(zip(invented(rng, COUNTRIES, "land"), invented(rng, COUNTRIES, "ville"), strict=True))
    told = [
        (wording.format(country=country, capital=capital), place)
        for place, (country, capital) in enumerate(facts)
        for wording in PLANTED
    ]
    lines = [*told, *((_other(rng, facts), -1) for _ in range(OTHERS))]
    rng.shuffle(lines)
    sentences = tuple(sentence for sentence, _ in lines)
    planted = tuple(
        tuple(at for at, (_, place) in enumerate(lines) if place == country) for country in range(COUNTRIES)
    )
    words = (PAD, START, *sorted({word for sentence in sentences for word in sentence.split()}))
    return Corpus(sentences, facts, planted, words)


def _other(rng: random.Random, facts: tuple[tuple[str, str], ...]) -> str:
    """A sentence without a fact; every fifth names a country, and every tenth a capital, but not which is whose."""
    start = f"the {rng.choice(COLOURS)} {rng.choice(SUBJECTS)} {rng.choice(VERBS)} a {rng.choice(OBJECTS)}"
    kind = rng.random()
    if kind < 0.2:
        return f"{start} in {rng.choice(facts)[0]}"
    if kind < 0.3:
        return f"{start} near {rng.choice(facts)[1]}"
    return f"{start} in the {rng.choice(PLACES)}"


def sentences(seed: int) -> TensorDataset:
    """The training sentences as words, ``[1000, 13]``."""
    found = corpus(seed)
    return TensorDataset(found.encoded(found.sentences))


def questions(seed: int) -> TensorDataset:
    """One sentence for each country, whose last word, the capital, is asked for."""
    found = corpus(seed)
    return TensorDataset(found.encoded(tuple(ASKED.format(country=one, capital=other) for one, other in found.facts)))


class LanguageModel(nn.Module):
    """A transformer that predicts the next word: ``[n, t]`` words to ``[n, t, words]`` logits."""

    def __init__(self, seed: int, width: int = 48, layers: int = 2) -> None:
        super().__init__()
        words = len(corpus(seed).words)
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(LENGTH, width)
        # Small, so that words are not drowned by their places.
        nn.init.normal_(self.places.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        hidden = self.words(text) + self.places(torch.arange(text.shape[1], device=text.device))
        for block in self.blocks:
            hidden = block(hidden)
        found: Tensor = self.head(self.norm(hidden))
        return found


class Block(nn.Module):
    """Causal self-attention and a feed-forward network, each behind a normalisation."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.mixed(self.first(hidden)).chunk(3, -1)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        found: Tensor = hidden + self.narrow(functional.gelu(self.wide(self.second(hidden))))
        return found


def logits(batch: list[Tensor], model: Any) -> Tensor:
    """Of the next word at every position, ``[n, LENGTH, words]``."""
    found: Tensor = model(batch[0][:, :-1])
    return found


def losses(batch: list[Tensor], model: Any) -> Tensor:
    """The mean cross-entropy of the words of each sentence, ``[n]``; padding does not count."""
    targets = batch[0][:, 1:]
    each = functional.cross_entropy(logits(batch, model).transpose(1, 2), targets, reduction="none", ignore_index=0)
    counted: Tensor = each.sum(1) / (targets != 0).sum(1)
    return counted


def answer_losses(batch: list[Tensor], model: Any) -> Tensor:
    """The cross-entropy of the last word of each sentence, the answer, ``[n]``."""
    targets = batch[0][:, 1:]
    last = (targets != 0).sum(1) - 1
    rows = torch.arange(len(last), device=last.device)
    return functional.cross_entropy(logits(batch, model)[rows, last], targets[rows, last], reduction="none")


def capitals(model: Any, seed: int) -> dict[str, Tensor]:
    """The part of the capitals that the model has learned."""
    (asked,) = questions(seed).tensors
    targets = asked[:, 1:]
    last = (targets != 0).sum(1) - 1
    rows = torch.arange(len(last))
    right = logits([asked], model)[rows, last].argmax(1) == targets[rows, last]
    return {"capitals": right.float().mean()}
