"""Small frozen records that the graph and the plan share, and their one-line text form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from betty.ir.diagnostics import GraphError

Value = bool | int | float | str | None


class Flow(StrEnum):
    """Which way values pass along an edge."""

    DOWN = "down"
    """The lower's loss reads the upper's parameters."""
    UP = "up"
    """The upper's loss reads the lower's solution."""
    BOTH = "both"

    @property
    def down(self) -> bool:
        return self is not Flow.UP

    @property
    def up(self) -> bool:
        return self is not Flow.DOWN


@dataclass(frozen=True, kw_only=True)
class Call:
    """A name with options, written ``cg(iterations=20, tolerance=1e-06)``."""

    name: str
    options: tuple[tuple[str, Value], ...] = ()

    def __getitem__(self, key: str) -> Value:
        return dict(self.options)[key]

    def to_text(self) -> str:
        if not self.options:
            return self.name
        return f"{self.name}({', '.join(f'{key}={json.dumps(value)}' for key, value in self.options)})"

    @classmethod
    def parse(cls, text: str) -> Call:
        name, bracket, rest = text.strip().partition("(")
        if not bracket:
            return cls(name=name)
        if not rest.endswith(")"):
            raise GraphError(f"expected ')' at the end of {text!r}")
        return cls(name=name, options=tuple(parse_pairs(rest[:-1], separator=",")))


def parse_pairs(text: str, separator: str = " ") -> list[tuple[str, Value]]:
    """``key=JSON`` pairs; JSON strings may hold the separator."""
    pairs: list[tuple[str, Value]] = []
    decoder, position = json.JSONDecoder(), 0
    while position < len(text):
        key, equals, _ = text[position:].partition("=")
        if not equals:
            raise GraphError(f"expected key=value at {text[position:]!r}")
        start = position + len(key) + 1
        try:
            value, position = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise GraphError(f"expected a JSON value at {text[start:]!r}") from error
        pairs.append((key.strip(), value))
        while position < len(text) and text[position] in {separator, " "}:
            position += 1
    return pairs


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a trace of one loss found; bytes and floating-point operations are of one micro-batch.

    Args:
        parameters: Trainable scalars.
        parameter_bytes: Bytes of the trainable parameters.
        state_bytes: Bytes of the optimiser's state after one update.
        forward_flops: Floating-point operations of the loss.
        backward_flops: Floating-point operations of its gradient by everything that it reads.
        saved_bytes: Activations kept between forward and backward.
        batch_bytes: Of the tensors in a micro-batch.
        gradient_bytes: At the peak of the loss and its backward pass, the gradient included; 0 where not measured, as
            below.
        graph_bytes: Kept alive by the gradient with its graph.
        product_bytes: At the peak of a product through that graph, beside it.
        tangent_bytes: At the peak of a gradient with tangents.
        mixed_bytes: At the peak of the gradient, by what else the loss reads, of its tangent.
        update_bytes: Kept alive by the graph of one update of the optimiser.
        twice: Whether the loss can be differentiated twice.
        forward: Whether its gradient can be differentiated in forward mode.
        plain: Whether either takes other kernels than the loss itself uses (attention, recurrent layers).
        note: Why some of this is unknown (then zero), or empty.
    """

    parameters: int = 0
    parameter_bytes: int = 0
    state_bytes: int = 0
    forward_flops: int = 0
    backward_flops: int = 0
    saved_bytes: int = 0
    batch_bytes: int = 0
    gradient_bytes: int = 0
    graph_bytes: int = 0
    product_bytes: int = 0
    tangent_bytes: int = 0
    mixed_bytes: int = 0
    update_bytes: int = 0
    twice: bool = True
    forward: bool = True
    plain: bool = False
    note: str = ""

    @property
    def step_flops(self) -> int:
        return self.forward_flops + self.backward_flops


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What is known of an upper that has one weight, one, for each training example of the problem below it.

    Args:
        likelihood: ``categorical``, ``gaussian`` or ``bernoulli``; empty where the loss is of no known kind.
        dtype: Of the stored gradients: ``fp32``, ``bf16``, ``int8`` or ``fp64``.
        tokens: Whether every token of a sequence is an example of its own.
        examples: Training examples; 0 where not known, as below.
        batch: Of them, those in a micro-batch.
        queries: Examples whose loss is asked about.
        layers: Shapes of the gradients that are valued, layer by layer: rows and columns, or a length alone.
        ranks: Of the projections of each layer, 0 for the method's own; empty where that holds for all.
    """

    likelihood: str = ""
    dtype: str = "fp32"
    tokens: bool = False
    examples: int = 0
    batch: int = 0
    queries: int = 0
    layers: tuple[tuple[int, ...], ...] = ()
    ranks: tuple[int, ...] = ()
