"""Small networks of the common kinds, each as a lower whose examples an upper weighs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from betty.backends.torch.methods import Lower
from betty.backends.torch.objective import Objective, Sample, View, trainable
from betty.backends.torch.random import RandomState
from tests.support.programs import CPU

CLASSES, EXAMPLES = 3, 6


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, CLASSES))


def cnn() -> nn.Module:
    """Convolutions with batch normalisation, in training mode."""
    first = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.AvgPool2d(2))
    return nn.Sequential(*first, nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.Flatten(), nn.LazyLinear(CLASSES))


class Encoder(nn.Module):
    """A transformer encoder over tokens, with fused attention and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.head(self.encoder(self.embedding(tokens)).mean(1))
        return found


class Recurrent(nn.Module):
    """Two layers of LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, 2, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.lstm(x)[0][:, -1])
        return found


def _numbers(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(EXAMPLES, *shape)


MODELS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "MLP": (mlp, _numbers(5)),
    "CNN with batch normalisation": (cnn, _numbers(1, 8, 8)),
    "transformer encoder": (Encoder, lambda: torch.randint(0, 11, (EXAMPLES, 7))),
    "LSTM": (Recurrent, _numbers(5, 4)),
}


def weighted_loss(batch: tuple[Tensor, Tensor], low: View, up: View) -> Tensor:
    """Cross entropy with a weight for each example, which a small network gives to its loss."""
    inputs, labels = batch
    losses = F.cross_entropy(low(inputs), labels, reduction="none")
    weights = torch.sigmoid(up(losses[:, None])).squeeze(1)
    return (weights * losses).mean()


def lower_of(kind: str, dtype: torch.dtype, seed: int = 0) -> Lower:
    """The lower of one kind at its first parameters, with one micro-batch and its random state."""
    torch.manual_seed(seed)
    make, draw = MODELS[kind]
    inputs = draw()
    model = make()
    with torch.no_grad():
        model(inputs)
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    modules = {"low": model.to(dtype), "up": nn.Linear(1, 1).to(dtype)}
    objective = Objective("low", weighted_loss, modules, takes_batch=True, device=CPU)
    sample = Sample((inputs, torch.randint(0, CLASSES, (EXAMPLES,))), RandomState.capture(CPU))
    return Lower("low", objective, [sample], trainable(modules["low"]), {"up": trainable(modules["up"])})
