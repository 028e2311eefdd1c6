"""A spec that values examples, from Python: trained or loaded, and asked what its examples are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from betty.backends.torch.errors import RunError
from betty.backends.torch.influence.task import Task
from betty.backends.torch.ordered import Ordered
from betty.backends.torch.rejoining import alone
from betty.backends.torch.trainer import Observer
from betty.engine import Engine
from betty.ir.compile import Compiled
from betty.ir.diagnostics import BettyError
from betty.ir.plan import Plan
from betty.ir.records import Value
from betty.result import Result
from betty.spec.load import Source, load
from betty.weighted import Weighted

if TYPE_CHECKING:
    from betty.valuation.valuation import Valuation


class Valued:
    """A program whose training examples are valued.

        valued = Valued("spec.yaml")
        valued.train()                             # or valued.load("runs/digits-1/weights.pt")
        valuation = valued.valuation("runs/values")
        valuation.log(valued.train_batches())
        scores = valuation.score(valued.query_batches())

    Args:
        spec: As for :class:`betty.Engine`; one of its problems has ``example_weights``.
        overrides: ``path=value`` texts.
        trust: Packages beyond ``torch`` and ``betty`` that targets may come from.
        queries: Target of the queries' data, in the place of the spec's.

    Raises:
        SpecError: Everything wrong with the spec and the program, in one report.
        BettyError: The spec values no examples.
    """

    def __init__(
        self, spec: Source, overrides: Sequence[str] = (), trust: Iterable[str] = (), queries: str | None = None
    ) -> None:
        given = list(overrides)
        upper = _upper(spec, given)
        if queries is not None and upper:
            given.append(f"problems.{upper}.data.target={queries}")
        self.engine = Engine(spec, overrides=given, trust=trust)
        if self.engine.weighted is None:
            raise BettyError(
                "the spec values no examples: expected a problem with example_weights, and an edge from it to the "
                "problem whose examples are valued: values: {example_weights: {}, loss: program:losses}, and "
                "edges: - {upper: values, lower: ..., method: logra}"
            )
        self.weighted: Weighted = self.engine.weighted

    @property
    def compiled(self) -> Compiled:
        """Graph and plan: training, and what is logged and scored after it."""
        return self.engine.compiled

    @property
    def plan(self) -> Plan:
        return self.compiled.plan

    def explain(self) -> str:
        """The plan as a person reads it, with the time that logging and scoring are expected to take here."""
        return "\n".join(filter(None, (self.engine.explain(), self.weighted.time_text(self.plan))))

    @property
    def name(self) -> str:
        """Of the problem whose examples are valued."""
        return self.weighted.name

    @property
    def method(self) -> tuple[str, Mapping[str, Value]]:
        """The name of the method, and all its options."""
        solver = self.weighted.method.solver
        return solver.name, dict(solver.options)

    @property
    def model(self) -> nn.Module:
        """The live model."""
        return self.weighted.model

    @property
    def task(self) -> Task:
        """The losses of training examples, ``[n]`` by model and batch, and the outputs where the spec has them."""
        return self.weighted.task

    @property
    def query_task(self) -> Task:
        """The losses of queries."""
        return self.weighted.query_task

    def train_batches(self) -> Ordered:
        """The training examples in the data's own order, each once; an example's place is its id."""
        return self.weighted.train_batches()

    def query_batches(self) -> Ordered | None:
        """The queries; ``None`` where there are none in the spec."""
        return self.weighted.query_batches()

    def train(
        self,
        iterations: int | None = None,
        *,
        out: str | Path | None = None,
        resume: str | Path | None = None,
        anyway: bool = False,
        observers: Sequence[Observer] = (),
    ) -> Result:
        """Train the model; nothing is logged or scored.

        Args:
            iterations: How many; the spec's by default. A run that goes on makes those that are left.
            out: Folder of the run; none is written without.
            resume: Folder of a run that was interrupted.
            anyway: Go on although the program has changed.
            observers: Told of every iteration.

        Raises:
            RunError: As of :meth:`betty.Engine.run` and :meth:`betty.Engine.resume`.
        """
        if resume is not None:
            return self.engine.resume(resume, anyway=anyway, observers=observers, values=False)
        return self.engine.run(iterations, out=out, observers=observers, values=False)

    def folder_of(self, result: Result) -> Path:
        """The folder of a run, which the first of several processes tells the others."""
        found = alone(self.weighted.processes, lambda: result.folder, "finding the folder of the run")
        assert found is not None, "the run was written"
        return found

    def load(self, path: str | Path) -> None:
        """Take the parameters of a run: its folder, its ``weights.pt``, or a file with the model's own state dict.

        Raises:
            RunError: There is no such file, or it holds another model's parameters.
        """
        file = Path(path)
        file = file / "weights.pt" if file.is_dir() else file
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise RunError(f"there is no file {file}: expected the weights.pt of a run") from None
        except Exception as error:
            raise RunError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None
        try:
            self.model.load_state_dict(state.get(self.name, state))
        except (RuntimeError, AttributeError, TypeError) as error:
            lines = [line.strip() for line in str(error).splitlines()]
            raise RunError(f"{file} holds another model than {self.name!r}: {' '.join(lines[:3])}") from None

    def valuation(self, store: str | Path | None = None, **options: Any) -> Valuation:
        """The valuation of the model as it is now; nothing is logged yet.

        Args:
            store: Folder of the logged gradients; a temporary one without.
            options: In the place of what the spec says, as of :class:`betty.valuation.Valuation`.
        """
        return self.weighted.valuation(store, **options)


def _upper(spec: Source, overrides: Sequence[str]) -> str:
    """The problem that is example weights; empty where there is none."""
    found = load(spec, overrides).spec.problems
    return next((name for name, problem in found.items() if problem.example_weights is not None), "")
