"""Per-example gradients by hooks against ``torch.func.vmap(grad)``, for every kind of layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from betty.backends.torch.influence.fallback import Fallback
from betty.backends.torch.influence.recording import Recorder
from betty.ir.diagnostics import BettyError

COUNT = 5

Losses = Callable[[nn.Module, Any], Tensor]


def summed(model: nn.Module, batch: Tensor) -> Tensor:
    """A loss for each example that no two outputs enter alike."""
    outputs = model(batch).flatten(1)
    factors = torch.linspace(0.5, 1.5, outputs.shape[1], dtype=outputs.dtype)
    return (outputs * factors).tanh().sum(1)


def expected(model: nn.Module, batch: Any, losses: Losses) -> dict[str, Tensor]:
    names = [name for name, leaf in model.named_parameters() if leaf.requires_grad]
    return Fallback(model, names).gradients(batch, losses)


def found(model: nn.Module, batch: Any, losses: Losses, **options: Any) -> tuple[dict[str, Tensor], Recorder]:
    recorder = Recorder(model, **options)
    count = len(batch)
    with recorder.recording(count):
        losses(model, batch).sum().backward()
    taken = recorder.take(count)
    parts: dict[str, Tensor] = {}
    for unit in recorder.units:
        parts |= {name: part.flatten(1) for name, part in unit.split(taken.unit(unit)).items()}
        torch.testing.assert_close(unit.join(unit.split(taken.unit(unit))), taken.unit(unit))
    return parts, recorder


def agree(model: nn.Module, batch: Any, losses: Losses = summed, lone: tuple[str, ...] = ()) -> Recorder:
    model = model.double().eval()
    truth = expected(model, batch, losses)
    parts, recorder = found(model, batch, losses)
    assert recorder.lone == lone
    assert set(parts) | set(lone) == set(truth)
    for name, part in parts.items():
        torch.testing.assert_close(part, truth[name], rtol=1e-9, atol=1e-11)
    return recorder


def drawn(*shape: int) -> Tensor:
    return torch.randn(COUNT, *shape, dtype=torch.float64)


class Conv1D(nn.Module):
    """As Hugging Face has it: a linear layer whose weight is ``[inputs, outputs]``."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, given: Tensor) -> Tensor:
        return given @ self.weight + self.bias


LAYERS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), (4,)),
    "linear of sequences": (lambda: nn.Linear(4, 3), (6, 4)),
    "linear of grids": (lambda: nn.Linear(4, 3), (2, 3, 4)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 3, (3, 2)), (2, 5, 6)),
    "conv2d strided": (lambda: nn.Conv2d(2, 3, 3, stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (2, 7, 8)),
    "conv2d same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (2, 4, 4)),
    "conv2d reflected": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", bias=False), (2, 4, 5)),
    "conv2d circular": (lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), (2, 4, 5)),
    "conv2d grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 5, 4)),
    "conv1d depthwise": (lambda: nn.Conv1d(3, 3, 2, groups=3, bias=False), (3, 6)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2, stride=2), (1, 4, 5, 4)),
    "layer norm": (lambda: nn.LayerNorm(4), (4,)),
    "layer norm of sequences": (lambda: nn.LayerNorm(4), (6, 4)),
    "layer norm of grids": (lambda: nn.LayerNorm((3, 4)), (2, 3, 4)),
    "layer norm without bias": (lambda: nn.LayerNorm(4, bias=False), (6, 4)),
    "rms norm": (lambda: nn.RMSNorm(4), (6, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (4, 5)),
    "batch norm": (lambda: nn.BatchNorm2d(3), (3, 2, 4)),
    "batch norm of vectors": (lambda: nn.BatchNorm1d(3), (3,)),
    "Hugging Face's Conv1D": (lambda: Conv1D(3, 4), (6, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name: str) -> None:
    make, shape = LAYERS[name]
    layer = make()
    for leaf in layer.parameters():
        nn.init.normal_(leaf)
    for buffer in layer.buffers():
        if buffer.is_floating_point():
            nn.init.uniform_(buffer, 0.5, 2.0)
    agree(nn.Sequential(layer), drawn(*shape))


@given(
    channels=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
)
def test_any_convolution(
    channels: int, outputs: int, kernel: tuple[int, int], stride: int, dilation: int, padding: int
) -> None:
    layer = nn.Conv2d(channels, outputs, kernel, stride=stride, padding=padding, dilation=dilation)
    agree(layer, drawn(channels, 6, 7))


def words(length: int = 6) -> Tensor:
    return torch.randint(0, 7, (COUNT, length))


class Reader(nn.Module):
    """Words and their positions, a recurrent use of one layer, and a head whose weight is that of the words."""

    def __init__(self, tied: bool = True, biased: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(7, 4, padding_idx=0), nn.Embedding(6, 4)
        self.mixed, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 7, bias=biased)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, text: Tensor) -> Tensor:
        hidden = self.words(text) + self.places(torch.arange(text.shape[1]))
        for _ in range(3):
            hidden = hidden + torch.tanh(self.mixed(self.norm(hidden)))
        found: Tensor = self.head(hidden)
        return found


def next_word(model: nn.Module, text: Tensor) -> Tensor:
    """Cross-entropy of the next word; padding does not count."""
    each = functional.cross_entropy(model(text)[:, :-1].transpose(1, 2), text[:, 1:], reduction="none", ignore_index=0)
    return each.sum(1)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_masks_tied_weights_positions_and_repeated_use(tied: bool, biased: bool) -> None:
    model = Reader(tied, biased)
    recorder = agree(model, words(), next_word)
    assert len(recorder.units) == (4 if tied else 5)


def test_as_many_positions_as_examples() -> None:
    agree(Reader(), words(COUNT), next_word)


def test_what_is_masked_brings_nothing() -> None:
    text = words()
    text[2, 3:] = 0
    shorter = text.clone()[2:3, :3]
    model = Reader(tied=False).double()
    parts, _ = found(model, text, next_word)
    alone, _ = found(copy.deepcopy(model), torch.cat([shorter, shorter]), next_word)
    for name, part in parts.items():
        torch.testing.assert_close(part[2], alone[name][0], rtol=1e-9, atol=1e-11)


class Attending(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inward, self.attention = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True, **options)

    def forward(self, given: Tensor) -> Tensor:
        hidden = self.inward(given)
        found: Tensor = self.attention(hidden, hidden, hidden, need_weights=False)[0]
        return found


class Crossing(nn.Module):
    """Attention to what comes from another layer, of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.attention = nn.Linear(4, 6), nn.MultiheadAttention(4, 2, kdim=6, vdim=6)

    def forward(self, given: Tensor) -> Tensor:
        keys, query = self.keys(given).transpose(0, 1), given.transpose(0, 1)
        found: Tensor = self.attention(query, keys, keys)[0]
        return found.transpose(0, 1)


@pytest.mark.parametrize("bias", [True, False])
def test_attention(bias: bool) -> None:
    agree(Attending(bias=bias), drawn(3, 4))


def test_attention_to_something_else() -> None:
    agree(Crossing(), drawn(3, 4), lone=("attention.in_proj_bias",))


def test_attention_with_masks_gives_what_torch_gives() -> None:
    layer = nn.MultiheadAttention(4, 2, batch_first=True).double()
    given, padding = drawn(3, 4), torch.rand(COUNT, 3) < 0.3
    padding[:, 0] = False
    causal = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)
    for options in ({}, {"attn_mask": causal}, {"key_padding_mask": padding}, {"attn_mask": causal == -torch.inf}):
        plain, weights = layer(given, given, given, **options)
        recorder = Recorder(layer)
        with recorder.recording(COUNT):
            seen, others = layer(given, given, given, **options)
        torch.testing.assert_close(seen, plain)
        torch.testing.assert_close(others, weights)


def test_attention_that_cannot_be_read_is_had_by_vmap() -> None:
    names = ("in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "out_proj.weight", "out_proj.bias")
    recorder = agree(Attending(add_bias_kv=True), drawn(3, 4), lone=tuple(f"attention.{name}" for name in names))
    assert [unit.name for unit in recorder.units] == ["inward"]


def test_an_encoder_layer_of_torch() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    agree(layer, drawn(3, 4))
    agree(layer.requires_grad_(True), drawn(3, 4))


class Scaled(nn.Module):
    """A parameter of its own, and one that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.randn(3)), nn.Linear(4, 3)
        self.fixed = nn.Linear(4, 3).requires_grad_(False)

    def forward(self, given: Tensor) -> Tensor:
        found: Tensor = self.scale * self.layer(given) + self.fixed(given)
        return found


def test_a_parameter_of_its_own_is_told_apart_and_a_fixed_one_is_left_out() -> None:
    recorder = agree(Scaled(), drawn(4), lone=("scale",))
    assert set(recorder.left_out) == {"fixed.weight", "fixed.bias"}
    assert "not trained" in recorder.left_out["fixed.weight"]


@pytest.mark.parametrize("again", [True, False], ids=["reentrant", "non-reentrant"])
def test_activation_checkpointing(again: bool) -> None:
    class Lighter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

        def forward(self, given: Tensor) -> Tensor:
            found: Tensor = checkpoint(self.rest, self.first(given).tanh(), use_reentrant=again)
            return found

    model, batch = Lighter().double(), drawn(4)
    truth = expected(nn.Sequential(model.first, nn.Tanh(), model.rest), batch, summed)
    parts, _ = found(model, batch, summed)
    renamed = {name.replace("first", "0").replace("rest", "2"): part for name, part in parts.items()}
    for name, part in renamed.items():
        torch.testing.assert_close(part, truth[name], rtol=1e-9, atol=1e-11)


def test_half_precision_is_near() -> None:
    model, batch = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3)), torch.randn(COUNT, 8)

    def cast(model: nn.Module, batch: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return summed(model, batch)

    exact, half = found(model, batch, summed)[0], found(model, batch, cast)[0]
    for name, part in half.items():
        assert part.dtype == torch.float32
        assert float(functional.cosine_similarity(part.flatten(), exact[name].flatten(), dim=0)) > 0.999


def test_tokens_of_a_sequence_add_up_to_it() -> None:
    model, text = Reader(tied=False).double(), words()

    def each(model: nn.Module, text: Tensor) -> Tensor:
        return functional.cross_entropy(model(text).transpose(1, 2), text, reduction="none")

    recorder = Recorder(nn.Sequential(model.head), tokens=True)
    with recorder.recording(COUNT):
        each(model, text).sum().backward()
    single = recorder.take(text.numel()).flat(recorder.units)
    whole = found(model, text, lambda model, text: each(model, text).sum(1))[0]["head.weight"]
    torch.testing.assert_close(single.view(*text.shape, -1).sum(1), whole)


def test_alone_no_parameter_is_differentiated() -> None:
    model, batch = Reader().double(), words()
    truth, _ = found(model, batch, next_word)
    model.zero_grad()
    recorder = Recorder(model)
    with recorder.alone(), recorder.recording(COUNT):
        losses = next_word(model, batch)
        losses.sum().backward()
    taken = recorder.take(COUNT)
    for unit in recorder.units:
        for name, part in unit.split(taken.unit(unit)).items():
            torch.testing.assert_close(part.flatten(1), truth[name])
    assert all(leaf.grad is None and leaf.requires_grad for leaf in model.parameters())


def test_layers_are_chosen_by_name_pattern_and_type() -> None:
    model = Reader(tied=False)
    chosen = {
        ("mixed",): ["mixed"],
        ("*s",): ["words", "places"],
        (nn.LayerNorm, "head"): ["norm", "head"],
    }
    for asked, names in chosen.items():
        recorder = Recorder(model, list(asked))
        assert [unit.name for unit in recorder.units] == names
        assert all("not among those" in why for why in recorder.left_out.values())
    with pytest.raises(BettyError, match="did you mean 'mixed'"):
        Recorder(model, ["mixes"])


def test_a_layer_whose_rows_are_no_examples_is_named() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, given: Tensor) -> Tensor:
            found: Tensor = self.layer(given.reshape(-1, 2)).view(len(given), -1)
            return found

    with pytest.raises(BettyError, match=r"layer \(of 10\)"):
        found(Folded().double(), drawn(4), summed)
