"""Passes over data that give per-example gradients: of the training loss, or of labels drawn from the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from betty.backends.torch.influence.fallback import Fallback
from betty.backends.torch.influence.recording import Recorder
from betty.backends.torch.influence.task import Task
from betty.backends.torch.influence.units import Gradients, Unit
from betty.backends.torch.random import derived_seed
from betty.backends.torch.tree import sharded
from betty.ir.diagnostics import BettyError
from betty.valuation.batches import Batch, Batches
from betty.valuation.losses import checked

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

Losses = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Sweep:
    """What gives the per-example gradients of a batch.

    The model is in evaluation mode meanwhile, so that a gradient is the example's own: dropout draws nothing and batch
    normalisation reads its running statistics. Its parameters' ``grad`` and mode are afterwards as before.

    Args:
        model: What is differentiated.
        task: What it is trained on.
        recorder: The hooks on its layers.
        fallback: For parameters that no hook covers.
        units: All units, those of the fallback included, in the order of the stored gradients.
        precision: ``fp32`` (the parameters' own), ``bf16`` or ``fp16`` under autocast.
        tokens: Whether every token of a batch's sequences is an example of its own.
        seed: Of labels that are drawn.
    """

    model: nn.Module
    task: Task
    recorder: Recorder
    fallback: Fallback | None
    units: tuple[Unit, ...]
    precision: str
    tokens: bool
    seed: int

    @property
    def sharded(self) -> bool:
        """Whether processes hold parts of the parameters, so that all have to take every step together."""
        return any(sharded(leaf) for leaf in self.model.parameters())

    def over(self, batches: Batches, losses: Losses | None = None) -> Iterator[tuple[Batch, Gradients, Tensor]]:
        """Each batch, the gradients of its examples and their losses, float32 ``[n]`` (``[n, t]`` of tokens)."""
        with self.evaluating():
            for batch in batches:
                found = self.gradients(batch, losses or self.task.losses)
                if not batch.spare:
                    yield batch, *found

    def drawn(self, batches: Batches) -> Iterator[tuple[Batch, Gradients]]:
        """Each batch and its examples' gradients for labels drawn from the model: the true Fisher information.

        Labels depend on the seed and on the first example's id alone, so that a pass can be repeated.
        """
        with self.evaluating():
            for batch in batches:
                found, _ = self.gradients(batch, self._drawing(batch))
                if not batch.spare:
                    yield batch, found

    def curved(self, batches: Batches) -> Iterator[tuple[Batch, Iterator[Gradients]]]:
        """Each batch and, one after the other, gradients whose outer products sum up to its Gauss-Newton matrix."""
        with self.evaluating():
            for batch in batches:
                columns = self._columns(batch)
                if not batch.spare:
                    yield batch, columns
                for _ in columns:  # what is left of them has to be computed beside the others' too
                    pass

    def _columns(self, batch: Batch) -> Iterator[Gradients]:
        task = self.task
        if task.outputs is None:
            raise BettyError("Gauss-Newton needs the model's outputs: outputs=... beside a loss of the model and batch")
        with torch.no_grad(), self._casting():
            columns = task.pseudo(task.outputs(self.model, batch.data), batch.data)
        for place, column in enumerate(columns):

            def along(model: nn.Module, data: Any, column: Tensor = column) -> Tensor:
                assert task.outputs is not None
                found = task.outputs(model, data)
                return (found * column[: len(found)].view_as(found)).flatten(1).sum(1)

            found, _ = self.gradients(batch, along)
            yield replace(found, weight=float(place == 0))

    def _drawing(self, batch: Batch) -> Losses:
        first = str(int(batch.ids[0])) if batch.count else ""
        generator = torch.Generator(batch.ids.device).manual_seed(derived_seed(self.seed, "labels", first))
        return lambda model, data: self.task.sampled(model, data, generator)

    def gradients(self, batch: Batch, losses: Losses) -> tuple[Gradients, Tensor]:
        """The gradients of the examples of one batch, and their losses."""
        with self.recorder.alone(), self.recorder.recording(batch.count):
            with self._casting():
                found = checked(losses(self.model, batch.data), batch.count, self.tokens)
            self._backward(found)  # within, as activations may be computed again
        taken = self.recorder.take(found.numel() if self.tokens else batch.count)
        if self.fallback is not None:
            taken = taken.with_vectors(self.fallback.gradients(batch.data, losses))
        return taken, found.detach().float().cpu()

    def _backward(self, losses: Tensor) -> None:
        if not losses.requires_grad:
            raise BettyError("the loss does not depend on any layer that is valued: is it computed under no_grad?")
        losses.sum().backward()

    @contextmanager
    def _casting(self) -> Iterator[None]:
        kind = AUTOCAST.get(self.precision)
        if kind is None:
            yield
            return
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=kind):
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in evaluation mode, part by part as it was afterwards."""
        modes = {name: part.training for name, part in self.model.named_modules()}
        with ExitStack() as stack:
            stack.callback(self._back, modes)
            self.model.eval()
            yield

    def _back(self, modes: dict[str, bool]) -> None:
        for name, part in self.model.named_modules():
            part.training = modes.get(name, part.training)
