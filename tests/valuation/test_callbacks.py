"""Trainers of other libraries log at their end; each test needs its library, and runs where that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Text(Dataset[dict[str, Tensor]]):
    """Sentences of twelve words out of forty."""

    def __init__(self, count: int) -> None:
        self.words = torch.randint(0, 40, (count, 12), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[place], "labels": self.words[place].clone()}


@pytest.mark.slow
def test_a_trainer_of_hugging_face_logs_a_language_model(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from betty.valuation.callbacks.transformers import ValuationCallback

    transformers.set_seed(0)
    sizes = {"vocab_size": 40, "n_positions": 12, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    data, callback = Text(48), ValuationCallback(store=tmp_path / "values", method="logra", rank=8)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=30,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    valuation = callback.valuation
    assert valuation is not None
    assert not valuation.left_out
    assert torch.equal(valuation.ids, torch.arange(48))
    # Nothing helps a sentence as much as itself; and losses are those of the model as it has become.
    assert torch.equal(callback.top(data, k=1).helpful[:, 0], torch.arange(48))
    with torch.no_grad():
        whole = model.eval()(input_ids=data.words, labels=data.words).loss
    assert torch.allclose(valuation.losses.mean(), whole, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_trainer_of_lightning_logs_its_module(tmp_path: Path) -> None:
    lightning: Any = pytest.importorskip("lightning")
    from betty.valuation.callbacks.lightning import ValuationCallback

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, inputs: Tensor) -> Any:
            return self.net(inputs)

        def training_step(self, batch: list[Tensor], place: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-2)

    torch.manual_seed(0)
    inputs = torch.randn(60, 4)
    labels = inputs[:, :3].argmax(1)
    labels[5] = (labels[5] + 1) % 3
    data = TensorDataset(inputs, labels)
    callback = ValuationCallback(nn.CrossEntropyLoss(), store=tmp_path / "values", method="ekfac")
    trainer = lightning.Trainer(
        max_epochs=60,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[callback],
    )
    trainer.fit(Module(), DataLoader(data, 15, shuffle=True))
    assert callback.valuation is not None
    assert int(callback.valuation.self_influence().argmax()) == 5, "the wrong label"
