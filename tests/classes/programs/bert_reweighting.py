"""Reweighting for a small transformer: AdamW with and without decay, a warm-up schedule, accumulated batches.

A sequence belongs to the class whose tokens are the majority; of the training labels a third is wrong. Batches come as
dicts, as objects in the manner of a tokenizer's encodings, or as nested tuples.
"""

from __future__ import annotations

from argparse import Namespace
from collections import UserDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem

VOCABULARY, LENGTH, WIDTH = 20, 9, 16
TRAIN, META, NOISE = 192, 64, 0.35


class Encoding(UserDict[str, Any]):
    """A mapping with attributes and ``.to(device)``, as a tokenizer returns it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any) -> Encoding:
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


def corpus(count: int, noise: float, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (count, LENGTH), generator=generator)
    truth = ((tokens < VOCABULARY // 2).sum(dim=1) > LENGTH // 2).long()
    wrong = torch.rand(count, generator=generator) < noise
    mask = torch.ones_like(tokens)
    return {"input_ids": tokens, "attention_mask": mask, "labels": truth ^ wrong.long(), "wrong": wrong}


def as_dict(fields: dict[str, Tensor]) -> Any:
    return dict(fields)


def as_encoding(fields: dict[str, Tensor]) -> Any:
    return Encoding(fields)


def as_tuples(fields: dict[str, Tensor]) -> Any:
    return (fields["input_ids"], (fields["attention_mask"], [fields["labels"]]))


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {"dict": as_dict, "encoding": as_encoding, "tuple": as_tuples}


def fields_of(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mask and labels of a batch of any form."""
    if isinstance(batch, Encoding):
        return batch.input_ids, batch.attention_mask, batch.labels
    if isinstance(batch, dict):
        return batch["input_ids"], batch["attention_mask"], batch["labels"]
    tokens, (mask, [labels]) = batch
    return tokens, mask, labels


def batches(data: dict[str, Tensor], size: int, form: str) -> list[Any]:
    parts = {key: value.split(size) for key, value in data.items() if key != "wrong"}
    return [FORMS[form]({key: value[i] for key, value in parts.items()}) for i in range(len(parts["labels"]))]


class TinyEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(self.embedding(tokens))
        share = mask.unsqueeze(2) / mask.sum(dim=1).view(-1, 1, 1)
        logits: Tensor = self.head((hidden * share).sum(dim=1))
        return logits


class Weigher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())

    def forward(self, losses: Tensor) -> Tensor:
        weights: Tensor = self.net(losses)
        return weights


class Finetune(ImplicitProblem):
    reweight: Reweight

    def training_step(self, batch: Any) -> Tensor:
        tokens, mask, labels = fields_of(batch)
        outputs = self.forward(tokens, mask)
        losses = F.cross_entropy(outputs, labels, reduction="none").view(-1, 1)
        weights = self.reweight(losses.detach())
        if self.scaler is not None:  # fp16 alone has one
            losses = losses.float()
        return torch.mean(weights * losses)

    def param_groups(self) -> list[dict[str, Any]]:
        plain = ("bias", "norm1.weight", "norm2.weight")
        named = [(name, one) for name, one in self.module.named_parameters() if not name.startswith("embedding")]
        decay = [one for name, one in named if not name.endswith(plain)]
        no_decay = [one for name, one in named if name.endswith(plain)]
        return [
            {"params": decay, "weight_decay": self.cfg.weight_decay},
            {"params": no_decay, "weight_decay": 0.0},
        ]

    def trainable_parameters(self) -> Iterable[Tensor]:
        return [one for name, one in self.module.named_parameters() if not name.startswith("embedding")]

    def meta_trainable_parameters(self) -> Iterable[Tensor]:
        return list(self.module.head.parameters()) if self.cfg.head_only else self.trainable_parameters()


class Reweight(ImplicitProblem):
    finetune: Finetune

    def training_step(self, batch: Any) -> dict[str, Tensor]:
        tokens, mask, labels = fields_of(batch)
        outputs = self.finetune(tokens, mask)
        loss = F.cross_entropy(outputs, labels)
        acc = (outputs.argmax(dim=1) == labels).float().mean() * 100
        return {"loss": loss, "acc": acc}


class FinetuneEngine(Engine):
    finetune: Finetune
    reweight: Reweight

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        data = corpus(400, 0.0, seed=5)
        outputs = self.finetune(data["input_ids"], data["attention_mask"])
        loss = F.cross_entropy(outputs, data["labels"]).item()
        return {"loss": loss, "acc": (outputs.argmax(dim=1) == data["labels"]).float().mean().item() * 100}


@torch.no_grad()
def mean_weights(engine: FinetuneEngine) -> tuple[float, float]:
    """Mean weight of the right and of the wrong labels."""
    data = corpus(TRAIN, NOISE, seed=3)
    engine.finetune.eval()
    outputs = engine.finetune(data["input_ids"], data["attention_mask"])
    losses = F.cross_entropy(outputs, data["labels"], reduction="none").view(-1, 1)
    weights = engine.reweight(losses).squeeze(1)
    return weights[~data["wrong"]].mean().item(), weights[data["wrong"]].mean().item()


def build(
    method: str = "darts",
    form: str = "dict",
    train_iters: int = 480,
    accumulation: int = 4,
    head_only: bool = False,
) -> FinetuneEngine:
    cfg = Namespace(lr=1e-2, weight_decay=1e-2, warmup=10, head_only=head_only)
    model, weigher = TinyEncoder(), Weigher()
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr)
    scheduler = LambdaLR(optimizer, lambda update: min(1.0, (update + 1) / cfg.warmup))
    finetune = Finetune(
        "finetune",
        Config(
            type=method,
            gradient_accumulation=accumulation,
            gradient_clipping=1.0,
            sama_adam_alpha=0.5,
            unroll_steps=1,
        ),
        model,
        optimizer,
        scheduler,
        batches(corpus(TRAIN, NOISE, seed=3), 16, form),
        cfg,
    )
    reweight = Reweight(
        name="reweight",
        config=Config(type="darts", retain_graph=True),
        module=weigher,
        optimizer=torch.optim.AdamW(weigher.parameters(), lr=1e-2, weight_decay=0.0),
        train_data_loader=batches(corpus(META, 0.0, seed=4), 32, form),
        extra_config=cfg,
    )
    dependencies = {"u2l": {reweight: [finetune]}, "l2u": {finetune: [reweight]}}
    engine_config = EngineConfig(train_iters=train_iters, valid_step=max(1, train_iters // 4))
    return FinetuneEngine(config=engine_config, problems=[reweight, finetune], dependencies=dependencies)


def main(**options: Any) -> FinetuneEngine:
    engine = build(**options)
    engine.run()
    return engine


if __name__ == "__main__":
    main()
