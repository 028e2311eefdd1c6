"""Per-example gradients by hooks: what a layer reads, and what its output is differentiated by."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from betty.backends.torch.influence.attention import Attended, projections, readable
from betty.backends.torch.influence.layers import Kind, kind_of, matrix_shape
from betty.backends.torch.influence.units import Gradients, Outer, Unit
from betty.ir.diagnostics import BettyError, listing, nearest

HALF = (torch.bfloat16, torch.float16)


class Recorder:
    """Hooks on a model's layers, from which the gradients of single examples come.

    They are right where the examples of a batch do not meet in the model, other than in its loss; and after a backward
    pass of the *sum* of their losses.

    Args:
        model: The model.
        layers: Names, patterns (``blocks.*``) or types of layers; all by default.
        tokens: Whether every position of a sequence is an example of its own.

    Attributes:
        units: What is recorded, in the order of the model's parameters.
        lone: Qualified names of trainable parameters that no hook covers.
        left_out: Parameters that take no part, and why.

    Raises:
        BettyError: ``layers`` names nothing that there is.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str | type[nn.Module]] | None = None, *, tokens: bool = False
    ) -> None:
        self.model, self.tokens = model, tokens
        self._hooked: dict[nn.Module, tuple[Unit, Kind, bool]] = {}
        self._outers: dict[str, list[Outer]] = {}
        self._vectors: dict[str, Tensor] = {}
        self._attending: dict[nn.MultiheadAttention, dict[str, Unit]] = {}
        self._count: int | None = None
        self.left_out: dict[str, str] = {}
        chosen = _chosen(model, layers)
        self.units, self.lone = self._assigned(chosen)

    def _assigned(self, chosen: Mapping[str, nn.Module]) -> tuple[tuple[Unit, ...], tuple[str, ...]]:
        units: dict[int, Unit] = {}
        hooked: dict[nn.Module, tuple[int, Kind, bool]] = {}
        torn: set[int] = set()
        names = {id(leaf): name for name, leaf in self.model.named_parameters()}
        within = {
            part for layer in chosen.values() if isinstance(layer, nn.MultiheadAttention) for part in layer.children()
        }
        for path, layer in chosen.items():
            if readable(layer):
                units |= self._attention(path, layer, names)
                continue
            kind = None if layer in within else kind_of(layer)
            own = dict(layer.named_parameters(recurse=False))
            weight = own.get("weight")
            if kind is None or weight is None or not all(leaf.requires_grad for leaf in own.values()):
                continue
            if id(weight) not in units:
                units[id(weight)] = _unit(path, layer, kind, [names[id(leaf)] for leaf in own.values()], own)
            elif "bias" in own and len(units[id(weight)].parameters) == 1:  # tied to a layer that has none
                units[id(weight)] = _with_bias(units[id(weight)], names[id(own["bias"])], own["bias"])
            if "bias" in own and names[id(own["bias"])] not in units[id(weight)].parameters:
                torn.add(id(weight))  # tied weights with a bias each
            hooked[layer] = id(weight), kind, "bias" in own
        for weight_id in torn:
            del units[weight_id]
        self._hooked = {
            layer: (units[one], kind, biased) for layer, (one, kind, biased) in hooked.items() if one in units
        }
        covered = {name for unit in units.values() for name in unit.parameters}
        taken = {names[id(leaf)] for layer in chosen.values() for leaf in layer.parameters(recurse=False)}
        lone = []
        for name, leaf in self.model.named_parameters():
            if not leaf.requires_grad:
                self.left_out[name] = "it is not trained"
            elif name not in taken:
                self.left_out[name] = "its layer is not among those that are chosen"
            elif name not in covered:
                lone.append(name)
        order = {name: place for place, name in enumerate(names.values())}
        return tuple(sorted(units.values(), key=lambda unit: order[unit.parameters[0]])), tuple(lone)

    def _attention(self, path: str, layer: nn.Module, names: Mapping[int, str]) -> dict[int, Unit]:
        """The projections of an attention as units; those whose parameters are not all trained are left to others."""
        assert isinstance(layer, nn.MultiheadAttention)
        own, found = dict(layer.named_parameters()), {}
        for name, parts in projections(layer).items():
            leaves = {part: own[part] for part in parts}
            if not all(leaf.requires_grad for leaf in leaves.values()):
                continue
            rows, columns = leaves[parts[0]].shape
            whole = tuple(tuple(leaf.shape) for leaf in leaves.values())
            qualified = tuple(names[id(leaf)] for leaf in leaves.values())
            unit = Unit(f"{path}.{name}".lstrip("."), qualified, whole, rows, columns + len(parts) - 1, True)
            found[id(leaves[parts[0]])] = unit
            self._attending.setdefault(layer, {})[name] = unit
        return found

    @contextmanager
    def recording(self, count: int | None = None) -> Iterator[None]:
        """Record what passes through the layers within; nothing from before is left.

        What is compiled runs as it was written meanwhile: compiled code would not call the hooks.

        Args:
            count: Examples of the batch, by which embeddings of positions are told, that all examples share.
        """
        self._outers, self._vectors, self._count = {}, {}, count
        handles = [layer.register_forward_hook(self._forward, with_kwargs=True) for layer in self._hooked]
        fast = torch.backends.mha.get_fastpath_enabled()
        try:
            for layer, projected in self._attending.items():
                layer.__dict__["forward"] = Attended(layer, partial(self._seen, projected))
            torch.backends.mha.set_fastpath_enabled(False)  # which goes around layers
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for layer in self._attending:
                layer.__dict__.pop("forward", None)
            for handle in handles:
                handle.remove()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Differentiate outputs only: no parameter's ``grad`` is computed, and none is touched."""
        asked = [leaf for leaf in self.model.parameters() if leaf.requires_grad]
        try:
            for leaf in asked:
                leaf.requires_grad_(False)
            yield
        finally:
            for leaf in asked:
                leaf.requires_grad_(True)

    def _forward(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        given = args[0] if args else kwargs["input"]
        changed = None
        if isinstance(layer, nn.Embedding) and _shared(given, self._count):
            # A copy for each example, as the gradient of one that they share is summed before it is seen.
            given, output = (_copies(tensor, given.dim(), self._count) for tensor in (given, output))
            changed = output
        if not output.requires_grad:
            output = changed = _leaf(output)
        output.register_hook(partial(self._backward, layer, given.detach()))
        return changed

    def _seen(self, units: Mapping[str, Unit], name: str, given: Tensor, output: Tensor, first: int) -> Tensor:
        if torch.is_grad_enabled() and name in units:
            output = output if output.requires_grad else _leaf(output)
            output.register_hook(partial(self._projected, units[name], given.detach(), first))
        return output

    @torch.no_grad()
    def _projected(self, unit: Unit, given: Tensor, first: int, slope: Tensor) -> None:
        given, slope = _alike(given, slope)
        if self.tokens:
            given, slope = given.flatten(0, 1).unsqueeze(1), slope.flatten(0, 1).unsqueeze(1)
        after = unit.rows - first - slope.shape[-1]
        left = nn.functional.pad(slope, (first, after)) if unit.rows != slope.shape[-1] else slope
        self._add(unit, Outer(left, given), unit.biased)

    @torch.no_grad()
    def _backward(self, layer: nn.Module, given: Tensor, slope: Tensor) -> None:
        unit, kind, biased = self._hooked[layer]
        given, slope = _alike(given, slope)
        if self.tokens and given.dim() > (2 if not isinstance(layer, nn.Embedding) else 1):
            given, slope = given.flatten(0, 1), slope.flatten(0, 1)
        found = kind.use(layer, given, slope)
        if isinstance(found, Outer):
            self._add(unit, found, biased)
        else:
            known = self._vectors.get(unit.name)
            self._vectors[unit.name] = found if known is None else known + found

    def _add(self, unit: Unit, found: Outer, biased: bool) -> None:
        if unit.biased:
            ones = found.right.new_full((*found.right.shape[:2], 1), float(biased))
            found = Outer(found.left, torch.cat([found.right, ones], 2), found.rows)
        self._outers.setdefault(unit.name, []).append(found)

    def _torn(self, count: int) -> str:
        """Which layers do not have one row for each example."""
        seen = {name: len(outers[0].right) for name, outers in self._outers.items()}
        seen |= {name: len(found) for name, found in self._vectors.items()}
        wrong = [f"{name} (of {rows})" for name, rows in seen.items() if rows != count]
        return (
            f"layers have seen batches of other sizes than {count} examples: {listing(wrong)}; gradients of single "
            "examples need inputs whose first dimension is theirs: choose other layers (layers=[...])"
        )

    def take(self, count: int | None = None) -> Gradients:
        """What the backward pass has brought, for ``count`` examples.

        Raises:
            BettyError: There was no backward pass, or not of so many examples.
        """
        sizes = {len(outer.right) for found in self._outers.values() for outer in found}
        sizes |= {len(found) for found in self._vectors.values()}
        if not sizes and self.units:
            raise BettyError("no gradient has reached a layer: expected a backward pass of the sum of the losses")
        asked = count if count is not None else max(sizes, default=0)
        if sizes - {asked}:
            raise BettyError(self._torn(asked))
        taken = Gradients(asked, dict(self._outers), dict(self._vectors))
        self._outers, self._vectors = {}, {}
        return taken


def _leaf(output: Tensor) -> Tensor:
    """What can be differentiated by, as a copy: a layer after it may write in place."""
    return output.detach().requires_grad_().clone()


def _alike(given: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Input and slope in one precision, at least single; places are left as they are."""
    slope = slope.float() if slope.dtype in HALF else slope
    return (given.to(slope.dtype) if given.is_floating_point() else given), slope


def _shared(given: Tensor, count: int | None) -> bool:
    """Whether an embedding is of positions, the same for all examples: ``arange(t)``, alone or as ``[1, t]``."""
    if count is None or given.dim() > 2 or (given.dim() == 2 and (len(given) != 1 or count == 1)):
        return False
    row = given.flatten()
    return bool(torch.equal(row, torch.arange(len(row), device=row.device, dtype=row.dtype)))


def _copies(tensor: Tensor, dimensions: int, count: int | None) -> Tensor:
    assert count is not None
    rows = tensor if dimensions == 2 else tensor.unsqueeze(0)
    return rows.expand(count, *rows.shape[1:])


def _unit(path: str, layer: nn.Module, kind: Kind, names: Sequence[str], own: Mapping[str, Tensor]) -> Unit:
    shapes = tuple(tuple(leaf.shape) for leaf in own.values())
    if not kind.matrix:
        return Unit(path, tuple(names), shapes, 1, sum(leaf.numel() for leaf in own.values()), False)
    rows, columns = matrix_shape(layer, kind, own["weight"])
    return Unit(path, tuple(names), shapes, rows, columns + ("bias" in own), True, kind.transposed)


def _with_bias(unit: Unit, name: str, bias: Tensor) -> Unit:
    return replace(
        unit,
        parameters=(*unit.parameters, name),
        shapes=(*unit.shapes, tuple(bias.shape)),
        columns=unit.columns + 1,
    )


def _chosen(model: nn.Module, layers: Sequence[str | type[nn.Module]] | None) -> dict[str, nn.Module]:
    """Modules that have parameters of their own and are asked for, by their paths."""
    every = {
        path: layer for path, layer in model.named_modules() if next(layer.parameters(recurse=False), None) is not None
    }
    if layers is None:
        return every
    found: dict[str, nn.Module] = {}
    for asked in [layers] if isinstance(layers, str) else layers:
        if isinstance(asked, str):
            fits = {p: m for p, m in every.items() if fnmatch.fnmatchcase(p, asked) or p.startswith(f"{asked}.")}
        else:
            fits = {p: m for p, m in every.items() if isinstance(m, asked)}
        if not fits:
            name = asked if isinstance(asked, str) else asked.__name__
            near = nearest(name, list(every))
            raise BettyError(
                f"layers: there is no layer {name!r} with parameters: expected one of {listing(list(every))}"
                + (f" (did you mean {near!r}?)" if near else "")
            )
        found |= fits
    return {path: layer for path, layer in every.items() if path in found}
