"""The engine: a multilevel program, from a spec or from classes, explained, drawn, checked and run from Python."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from betty.backends.torch import checkpoint
from betty.backends.torch.check import Request, Truth, check_program
from betty.backends.torch.check.recommend import TOLERANCE
from betty.backends.torch.check.run import MOST_STEPS
from betty.backends.torch.executor import Executor
from betty.backends.torch.processes import Found
from betty.backends.torch.program import Program
from betty.backends.torch.random import replaying
from betty.backends.torch.rejoining import alone
from betty.backends.torch.trainer import Observer, Trainer
from betty.backends.torch.tree import entire
from betty.checking import Report
from betty.classes.front import ClassFront
from betty.classes.members import ClassMembers
from betty.configs import EngineConfig
from betty.detailed import detailed
from betty.front import Front
from betty.given import sorted_out
from betty.ir.compile import Compiled
from betty.ir.diagnostics import BettyError, listing, nearest
from betty.ir.explain import explain
from betty.ir.graph import Graph
from betty.ir.methods import Method
from betty.ir.plan import Plan
from betty.logging import logger
from betty.observers.checkpoints import save
from betty.problems.problem import Problem
from betty.render import Rendered, render, svg
from betty.result import Result
from betty.resuming import go_back, latest_run
from betty.runfolder import RunFolder, new_folder
from betty.runs import Run
from betty.spec.load import Source
from betty.spec.models import Spec
from betty.specified import SpecFront
from betty.weighted import Weighted, followed


class Engine(ClassMembers):
    """A multilevel program, compiled and ready to run.

    It is written as a spec, ``Engine("spec.yaml")``, or as classes, ``Engine(problems=[...], dependencies={...})``.
    In a notebook the last expression ``engine`` shows the drawn graph and the plan.

    A program of classes may derive its engine and define ``validation``, which returns a dict of numbers, and
    ``train_step``; every problem is an attribute of the engine under its name.

    Args:
        spec: The path of a YAML file, a mapping as such a file holds, or a ``betty.Spec``; live modules, losses,
            data and optimisers may stand in a mapping or ``Spec`` in the place of targets. A list of problems is taken
            as ``problems``.
        config: How a program of classes runs.
        dependencies: ``{"u2l": {upper: [lower, ...]}, "l2u": {lower: [upper, ...]}}``: whose loss reads whom.
        env: What the problems reach as ``self.env``.
        problems: :class:`betty.problems.ImplicitProblem` and :class:`betty.problems.IterativeProblem` objects.
        overrides: ``path=value`` texts such as ``"problems.classifier.optimizer.lr=0.01"``, for a spec.
        trust: Packages beyond ``torch`` and ``betty`` that targets of a spec may come from.

    Raises:
        SpecError: Everything wrong with the spec and the program, in one report.
        GraphError: Everything wrong with the dependencies and methods of problems.
        BettyError: A problem lacks a part, or its name is taken.
        RunError: The device is not on this machine.
    """

    def __init__(
        self,
        spec: Source | Sequence[Problem] | EngineConfig | None = None,
        config: EngineConfig | Sequence[Problem] | None = None,
        dependencies: Mapping[str, Any] | None = None,
        env: Any = None,
        *,
        problems: Sequence[Problem] | None = None,
        overrides: Sequence[str] = (),
        trust: Iterable[str] = (),
    ) -> None:
        found, self.config = sorted_out(spec, config, problems)
        self.train_iters, self.valid_step = self.config.train_iters, self.config.valid_step
        self._detailed: tuple[Compiled, Compiled] | None = None
        self._front: Front
        if isinstance(found, list):
            if overrides or trust:
                raise BettyError("overrides and trust belong to specs: a program of classes is changed in its own code")
            self.logger = logger(self.config.logger_type if os.environ.get("RANK", "0") == "0" else "none")
            self._front = ClassFront(self, found, dependencies, self.config, env, self.logger)
        else:
            if dependencies is not None or env is not None or config is not None:
                raise BettyError("config, dependencies and env belong to programs of classes: Engine(problems=[...])")
            self.logger = logger()
            self._front = SpecFront(found, overrides, trust)
            self.train_iters = self.spec.engine.iterations
        running = self._front.running
        self._trainer = Trainer(
            self._front.executor,
            validation=self._front.measures,
            early_stopping=self._front.early_stopping,
            record_every=running.record_every,
            random=running.random,
            iterate=self._front.iterate,
            shared=running.random is None,
        )
        self._trainer.executor.watch.policy = running.on_nonfinite
        if running.checkpoint_every:
            self._trainer.executor.recorder.record()
        if isinstance(self._front, ClassFront):
            self._front.runtime.noted = self._trainer.note
            self._front.runtime.rebuilt = self._rebuilt

    def _rebuilt(self, executor: Executor) -> None:
        if self._trainer.executor.recorder.recording:
            executor.recorder.record()
        executor.watch.policy = self._front.running.on_nonfinite
        self._trainer.executor = executor

    @property
    def spec(self) -> Spec:
        """The spec as it is run, overrides included.

        Raises:
            BettyError: The program was written as classes; :meth:`to_spec` writes what can be written of it.
        """
        if isinstance(self._front, SpecFront):
            return self._front.spec
        raise BettyError("this program was written as classes: engine.to_spec() writes what a spec can say of it")

    def to_spec(self) -> str:
        """The program as the text of a YAML spec.

        What a spec cannot say of a program of classes, such as a ``training_step`` or a hook, is named in comments at
        the place where a target is to be put.
        """
        return self._front.written()

    @property
    def weighted(self) -> Weighted | None:
        """The examples that the program values; ``None`` for a program that only trains."""
        return self._front.weighted if isinstance(self._front, SpecFront) else None

    @property
    def _program(self) -> Program:
        return self._front.program

    @property
    def compiled(self) -> Compiled:
        """Graph, plan and the graph after each pass, with estimates of time and memory."""
        compiled = self._front.compiled
        if self._detailed is None or self._detailed[0] is not compiled:
            self._detailed = compiled, detailed(compiled, self._program, self._front.running.random)
        return self._detailed[1]

    @property
    def graph(self) -> Graph:
        """The dataflow graph with levels, periods, facts and resolved methods."""
        return self.compiled.graph

    @property
    def plan(self) -> Plan:
        """What the executor follows."""
        return self.compiled.plan

    @property
    def iteration(self) -> int:
        """Iterations done so far."""
        return self._trainer.iteration

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The live module of every problem; one that is a plain set of parameters has a module that holds them."""
        return {name: problem.module for name, problem in self._program.problems.items()}

    def explain(self) -> str:
        """The plan as a person reads it."""
        return explain(self.plan, self.graph)

    def render(self, path: str | Path) -> Rendered:
        """Draw the graph into an SVG, PNG, PDF, DOT or Mermaid file, by its ending.

        Raises:
            RenderError: The ending is unknown, a program for it is missing, or the file cannot be written.
        """
        return render(self.graph, Path(path))

    def hypergradient(self, name: str, batches: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
        """The derivative of a problem's loss by its parameters, its lowers' responses included, by parameter name.

        For a problem without uppers' flows below it this is the plain gradient. Evaluated at the current parameters;
        nothing is changed: parameters, buffers, random states, counters and data streams stay bit for bit.

        Args:
            name: The problem.
            batches: Micro-batches by problem, for the problem itself and for lowers that respond; without one, a
                lower uses those of its last update, and a problem that has not stepped yet its first.

        Raises:
            BettyError: There is no such problem.
            RunError: An unrolled lower has made no update yet.
        """
        if unknown := [key for key in (name, *(batches or {})) if key not in self._program.problems]:
            known = list(self._program.problems)
            hint = nearest(unknown[0], known)
            raise BettyError(
                f"there is no problem {unknown[0]!r}; there are {listing(known)}"
                + (f" (did you mean {hint!r}?)" if hint else "")
            )
        with replaying(self._trainer.random, self._program.device):
            outcome = self._front.executor.hypergradient(name, batches)
        return self._program[name].named(tuple(entire(leaf.detach()) for leaf in outcome.gradient))

    def validate(self) -> dict[str, float]:
        """What ``engine.validate`` of the spec, or the method ``validation``, measures now; empty without."""
        validation = self._trainer.validation
        with replaying(self._trainer.random, self._program.device):
            return validation.measure(self._program) if validation else {}

    def check(  # noqa: PLR0913 - keywords, each of which stands for an option of betty check or a list of methods
        self,
        *,
        iterations: int | None = None,
        points: int = 3,
        seed: int | None = None,
        tolerance: float = TOLERANCE,
        reference: Truth = "auto",
        most_steps: float = MOST_STEPS,
        methods: Iterable[Method] | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Report:
        """Compare the hypergradient of every edge by every method with an exact one in double precision.

        A copy of the program is trained from where this one stands, its data from the beginning of an epoch; at
        several points every method is measured. The engine itself is left as it is, bit for bit.

        Args:
            iterations: Of training; without, the spec's, but no more than 300 or ten steps of the slowest upper,
                whichever is more.
            points: Points of training at which methods are compared: at 10 % of the iterations, and from there in
                equal distances up to the last.
            seed: Of the random states of the training; the spec's by default.
            tolerance: Relative error that is exact enough for a recommendation.
            reference: ``solution`` compares with the derivative of the lower's solution, ``unrolled`` with that of
                its updates since the upper's last step, ``auto`` with what the edge's own method stands for.
            most_steps: Methods are left out whose response is expected to take more steps of the lower than this.
            methods: What to compare besides the edges' own methods; by default all that there are, with their defaults.
            progress: Told what is being done, in a few words.

        Raises:
            RunError: The data is a live generator, which cannot be copied.
            BettyError: The program values examples.
        """
        if self.weighted is not None:
            raise BettyError("this program values examples, and has no hypergradients: Valuation.check does")
        asked = Request(
            iterations=iterations,
            points=points,
            seed=self._front.running.seed if seed is None else seed,
            tolerance=tolerance,
            reference=reference,
            most_steps=most_steps,
            methods=None if methods is None else tuple(methods),
            progress=progress or (lambda text: None),
        )
        return Report(check_program(self._front.compiled.graph, self._program, asked))

    def save(self, path: str | Path) -> None:
        """Write the whole state into a file, whole or not at all, from which :meth:`restore` goes on bit for bit.

        What ``unrolled`` looks back on is part of it where ``engine.checkpoint`` (``checkpoint_every``) is set, by
        which updates are recorded as they are made.

        Raises:
            RunError: The file cannot be written, or a part of the program cannot.
        """
        save(self._trainer, Path(path))

    def restore(self, path: str | Path) -> None:
        """Go back to a saved state of this program and go on from it as the run that was saved would have.

        Parameters, buffers, optimisers, schedulers, counters, warm starts, what responses look back on, random states
        and the position in the data are as they were.

        Raises:
            RunError: The file cannot be read, is damaged, or belongs to another program.
        """
        checkpoint.restore(self._trainer, Path(path))

    def run(
        self,
        iterations: int | None = None,
        *,
        out: str | Path | None = None,
        write: bool = False,
        command: Mapping[str, Any] | None = None,
        profile: bool = False,
        observers: Sequence[Observer] = (),
        values: bool = True,
    ) -> Result:
        """Run the plan; called again it goes on from where it is.

        Where it values examples, gradients are then logged in the run's folder, and scores written: ``scores.npz``.

        Args:
            iterations: How many; the spec's by default.
            out: Folder for ``metrics.jsonl``, ``plan.txt``, ``spec.yaml`` and ``weights.pt``.
            write: Write them to ``runs/<name>-<n>`` where ``out`` is not given.
            command: How the run was begun, for ``betty run --resume``: written into the folder.
            profile: Measure time and memory of every instruction; slower.
            observers: Told of every iteration and record.
            values: Whether examples are valued at the end.

        Raises:
            RunError: The run cannot go on, or its folder cannot be written.
        """
        name = self._front.running.name
        folder = (
            self._alone(lambda: new_folder(out, name, command), "making the folder")
            if out is not None or write
            else None
        )
        plan = self.compiled if folder is not None or profile else self._front.compiled
        run = Run(
            front=self._front,
            trainer=self._trainer,
            folder=folder,
            observers=observers,
            profile=profile,
            compiled=plan,
        )
        result = run.go(self.train_iters if iterations is None else iterations, self._begin)
        return followed(result, self.weighted if values else None, run.folder)

    def resume(
        self,
        folder: str | Path | None = None,
        *,
        anyway: bool = False,
        profile: bool = False,
        observers: Sequence[Observer] = (),
        values: bool = True,
    ) -> Result:
        """Go on with a run that was interrupted, from its newest checkpoint to its end, in the same folder.

        On a CPU, weights and metrics are bit for bit those of a run that was never interrupted. A damaged checkpoint
        is put aside and the one before it is used. Nothing that changes a step may differ from the spec that the run
        was begun with; iterations, validation, early stopping, logs and checkpoints may.

        Args:
            folder: Of the run; by default the one below ``runs`` that was written to last.
            anyway: Go on although the program has changed, with whatever of the state fits.
            profile: Measure time and memory of every instruction; slower.
            observers: Told of every iteration and record.
            values: Whether examples are valued at the end, where the program does so and a folder is written.

        Raises:
            RunError: There is no such run or no checkpoint, or the program has changed; the fields are named.
        """
        name = self._front.running.name
        path = self._alone(lambda: latest_run(Path("runs"), name) if folder is None else Path(folder), "resuming")
        self._trainer.executor.recorder.record()
        found = RunFolder(path)
        plan = self.compiled  # before the data moves to where the run has stood
        history = go_back(self._trainer, found, self.to_spec(), anyway=anyway)
        run = Run(
            front=self._front,
            trainer=self._trainer,
            folder=found,
            observers=observers,
            profile=profile,
            compiled=plan,
            history=history,
        )
        result = run.go(max(0, self.train_iters - self.iteration), self._begin)
        return followed(result, self.weighted if values else None, run.folder)

    def _alone(self, find: Callable[[], Found], what: str) -> Found:
        return alone(self._program.processes, find, what)

    def _begin(self) -> None:
        if isinstance(self._front, ClassFront):
            self.train()

    def __repr__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        plan = html.escape(self.explain())
        return f'<div>{svg(self.graph)}<pre style="line-height: 1.35; overflow-x: auto">{plan}</pre></div>'
