"""What a spec says of the examples that it values, alive: the trained model, its losses, its data, the valuation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from betty.backends.torch.influence.fallback import Fallback
from betty.backends.torch.influence.recording import Recorder
from betty.backends.torch.influence.spaces import ranks_of
from betty.backends.torch.influence.task import Task
from betty.backends.torch.influence.units import Unit
from betty.backends.torch.objective import View
from betty.backends.torch.ordered import Ordered, size_of
from betty.backends.torch.processes import Processes
from betty.backends.torch.program import Program
from betty.backends.torch.random import derived_seed, replaying
from betty.backends.torch.tree import sharded
from betty.build import ordered
from betty.ir.diagnostics import BettyError, Diagnostic
from betty.ir.plan import Plan
from betty.ir.records import Weights
from betty.ir.telling import time_line
from betty.ir.valuations import ValuationMethod
from betty.result import Result
from betty.runfolder import RunFolder, write_atomically
from betty.spec.frontend import Program as Parsed
from betty.spec.valuing import OfModel, Parts

if TYPE_CHECKING:
    from betty.valuation.valuation import Valuation

STORE, SCORES = "values", "scores.npz"
"""In the folder of a run: the logged gradients, and scores of the queries."""
MEASURED = 4
"""Passes that are timed, of which the fastest counts: the first ones take longer."""
DECOUPLED = ("AdamW", "Muon", "Adafactor")
"""Optimisers whose decay of weights is no part of the loss."""


class Weighted:
    """The examples of one problem of a live program, and what is asked about them.

    Args:
        found: The spec, imported.
        parts: The same, taken apart.
        program: The live problem that is trained.
        method: How examples are valued, every option written out.
    """

    def __init__(self, found: Parsed, parts: Parts, program: Program, method: ValuationMethod) -> None:
        self._found, self._parts, self._program, self.method = found, parts, program, method
        self._data: dict[str, Ordered | None] = {}

    @property
    def name(self) -> str:
        """Of the problem whose examples are valued."""
        return self._parts.lower

    @property
    def training(self) -> Parsed:
        """The program that is trained, without the weights."""
        return self._parts.training

    @property
    def model(self) -> nn.Module:
        return self._program[self._parts.lower].module

    @property
    def processes(self) -> Processes | None:
        """Those that share the work; ``None`` where there is one."""
        return self._program.processes

    @property
    def task(self) -> Task:
        """The training losses, one for each example, and the outputs where the spec has them."""
        return self._task(self._parts.losses)

    @property
    def query_task(self) -> Task:
        """The losses of queries."""
        return self._task(self._parts.queries)

    def _task(self, losses: OfModel) -> Task:
        name, weights = self._parts.lower, self._parts.weights
        return Task(
            losses=_viewing(name, losses),
            outputs=_viewing(name, self._parts.outputs) if self._parts.outputs else None,
            likelihood=weights.likelihood,
            scale=weights.scale,
        )

    def train_batches(self) -> Ordered:
        """The training examples in the data's own order, each once: an example's place is its id."""
        found = self._ordered(self._parts.lower)
        assert found is not None, "checked with the spec"
        return found

    def query_batches(self) -> Ordered | None:
        """The queries; ``None`` where the spec has none."""
        return self._ordered(self._parts.upper)

    def _ordered(self, name: str) -> Ordered | None:
        if name not in self._data:
            self._data[name] = ordered(self._found, name, self._program.device)
        return self._data[name]

    @property
    def weight_decay(self) -> float:
        """Of the training loss: the spec's, or the optimiser's where it acts through the gradient."""
        said = self._parts.weights.weight_decay
        return decay_of(self._program[self._parts.lower].optimizer) if said is None else said

    def seconds(self) -> float:
        """Of the forward and backward pass of one micro-batch, measured now; nothing of the program is changed.

        0 where parameters are spread over processes, which would all have to take part.
        """
        stream = self._program[self._parts.lower].stream
        leaves = [leaf for leaf in self.model.parameters() if leaf.requires_grad]
        if stream is None or not leaves or any(map(sharded, leaves)):
            return 0.0
        device, modes = self._program.device, {name: one.training for name, one in self.model.named_modules()}
        found = []
        with replaying(None, device):
            batch = stream.peek()
            self.model.eval()
            for _ in range(MEASURED):
                begin = _clock(device)
                torch.autograd.grad(self.task.losses(self.model, batch).sum(), leaves, allow_unused=True)
                found.append(_clock(device) - begin)
        for name, one in self.model.named_modules():
            one.training = modes[name]
        return min(found)

    def time_text(self, plan: Plan) -> str:
        """A line on how long ``plan`` is expected to take here to log and score; empty where that is not known."""
        return time_line(plan, self.seconds())

    def valuation(self, store: str | Path | None = None, **options: Any) -> Valuation:
        """The valuation of the model as it is now.

        Args:
            store: Folder of the logged gradients; a temporary one without.
            options: In the place of what the spec says, as of :class:`betty.valuation.Valuation`.
        """
        from betty.valuation.valuation import Valuation

        spec, weights = self._found.document.spec, self._parts.weights
        precision = spec.problems[self._parts.lower].precision or spec.engine.precision
        said: dict[str, Any] = {
            "method": self.method.written(),
            "layers": weights.layers,
            "ranks": weights.ranks,
            "query_loss": self.query_task,
            "weight_decay": self.weight_decay,
            "dtype": weights.dtype,
            "precision": precision if precision in ("bf16", "fp16") else "fp32",
            "seed": derived_seed(spec.engine.seed, self._parts.upper),
            "tokens": weights.tokens,
        }
        return Valuation(self.model, self.task, store=store, **{**said, **options})

    def values(self, folder: Path, tell: Callable[[str, int], None] | None = None) -> Valuation:
        """Log the training examples below ``folder``, and write scores there: of the queries, and of each for itself.

        Raises:
            BettyError: The folder holds the values of another model.
        """
        valuation = self.valuation(folder / STORE)
        valuation.log(self.train_batches(), progress=tell)
        queries = self.query_batches()
        found = {"ids": valuation.ids, "losses": valuation.losses}
        if not self.method.declared.solves:  # which would take a solve for each example
            found["self_influence"] = valuation.self_influence()
        if queries is not None:
            found["scores"] = valuation.score(queries)
        if self._program.processes is None or self._program.processes.rank == 0:
            write_atomically(folder / SCORES, lambda path: _save(path, found))
        return valuation

    def counted(self, weights: Weights) -> Weights:
        """What the data and the model add to what the spec says."""
        stream, queries = self._program[self._parts.lower].stream, self.query_batches()
        return replace(
            weights,
            examples=self.train_batches().examples,
            batch=size_of(stream.peek()) if stream is not None else 0,
            queries=queries.examples if queries is not None else 0,
            layers=tuple((unit.rows, unit.columns) if unit.matrix else (unit.size,) for unit in self._units()),
            ranks=self._ranks(),
        )

    def _units(self) -> tuple[Unit, ...]:
        weights = self._parts.weights
        with self._placed("layers"):
            recorder = Recorder(self.model, weights.layers, tokens=weights.tokens)
        lone = Fallback(self.model, recorder.lone).units if recorder.lone and not weights.tokens else ()
        return (*recorder.units, *lone)

    def _ranks(self) -> tuple[int, ...]:
        ranks = self._parts.weights.ranks
        if not ranks:
            return ()
        with self._placed("ranks"):
            return tuple(ranks_of(self._units(), {**ranks, "*": ranks.get("*", 0)}).values())

    @contextmanager
    def _placed(self, field: str) -> Iterator[None]:
        """Mistakes within are told at a field of the example weights."""
        try:
            yield
        except BettyError as error:
            path = ("problems", self._parts.upper, "example_weights", field)
            message = error.diagnostics[0].message.removeprefix("rank: ")
            raise self._found.document.report([Diagnostic(code="unknown-part", field=path, message=message)]) from None


def _viewing(name: str, function: OfModel) -> Callable[[nn.Module, Any], Tensor]:
    """A function of the spec, which sees the model as losses do."""

    def called(model: nn.Module, batch: Any) -> Tensor:
        found: Tensor = function(View(name, model), batch)
        return found

    return called


def _clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def decay_of(optimizer: Optimizer | None) -> float:
    """The weight decay of an optimiser that is part of its loss; 0 for others."""
    if optimizer is None or type(optimizer).__name__ in DECOUPLED:
        return 0.0
    group = optimizer.param_groups[0]
    return 0.0 if group.get("decoupled_weight_decay") else float(group.get("weight_decay", 0.0))


def _save(path: Path, found: dict[str, Tensor]) -> None:
    arrays: dict[str, Any] = {name: value.numpy() for name, value in found.items()}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def followed(result: Result, weighted: Weighted | None, folder: RunFolder | None) -> Result:
    """The result of a run, after which its examples are valued; one that was interrupted is to go on first."""
    if weighted is not None and folder is not None and result.reason in ("finished", "stopped early"):
        weighted.values(folder.path)
    return result
