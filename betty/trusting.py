"""How far the values of a spec's examples can be trusted: its lower is trained again on parts of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Subset

from betty.backends.torch.trainer import Trainer
from betty.ir.diagnostics import BettyError
from betty.spec.frontend import Program
from betty.specified import SpecFront
from betty.valuation import Valuation
from betty.valuation.trust import Trust
from betty.valued import Valued

Progress = Callable[[str, int], None]


def trusted(
    valued: Valued, valuation: Valuation, *, retrainings: int, seed: int = 0, progress: Progress | None = None
) -> Trust:
    """Compare the values of a spec's examples with exact ones and, where there are to be trainings, with those.

    Args:
        valued: The spec, trained.
        valuation: What has logged its examples.
        retrainings: How often the lower may be trained again, on parts of its data; 0 for never.
        seed: Of the parts, and of trainings.
        progress: Told what is being done, and how many trainings are done.

    Raises:
        BettyError: The spec has no queries, or its data cannot be taken in parts.
    """
    queries = valued.query_batches()
    if queries is None:
        raise BettyError("the spec has no data of queries, whose losses are compared: give problems.<values>.data")
    train = _training(valued) if retrainings else None
    return valuation.check(queries, train=train, retrainings=retrainings, seed=seed, progress=progress)


def _training(valued: Valued) -> Callable[[Tensor, int], nn.Module]:
    """A function that trains the lower as the spec says, on some of its examples and with another seed."""
    data = valued.train_batches().dataset
    if data is None:
        raise BettyError("training again on parts of the data needs a data set, which can be asked for its examples")
    training = valued.weighted.training

    def train(kept: Tensor, seed: int) -> nn.Module:
        front = SpecFront.made(_partial(training, valued.name, Subset(data, kept.tolist()), seed))
        running = front.running
        Trainer(front.executor, record_every=running.iterations, random=running.random, shared=False).run(
            running.iterations
        )
        return front.program[valued.name].module

    return train


def _partial(training: Program, name: str, data: Any, seed: int) -> Program:
    """The program with other data and another seed."""
    spec, resolved = training.document.spec, training.resolved
    assert resolved is not None
    engine = spec.engine.model_copy(update={"seed": spec.engine.seed + seed})
    problem = replace(resolved.problems[name], data=lambda: data)
    return Program(
        document=replace(training.document, spec=spec.model_copy(update={"engine": engine})),
        graph=training.graph,
        resolved=replace(resolved, problems={name: problem}),
    )


def write_report(valued: Valued, valuation: Valuation, path: Path, *, top: int, retrainings: int = 0) -> Path:
    """Write the page of :meth:`betty.valuation.Valuation.report` for a spec; with trainings, what they say too."""
    queries = valued.query_batches()
    trust = trusted(valued, valuation, retrainings=retrainings) if retrainings and queries is not None else None
    return valuation.report(
        path,
        queries,
        data=valued.train_batches(),
        k=top,
        own=not valuation.method.declared.solves,
        title=f"What the examples of {valued.name} are worth",
        trust=trust,
    )
