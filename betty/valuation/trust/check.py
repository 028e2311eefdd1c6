"""How far a valuation can be trusted: beside exact influence where the model is small, and beside training again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from betty.ir.diagnostics import BettyError
from betty.ir.quantities import plural
from betty.valuation.batches import Batches, to_batches
from betty.valuation.examples import answers, cut
from betty.valuation.fitting import Fitter
from betty.valuation.options import Chosen, choose
from betty.valuation.trust.brittleness import Curve, brittleness
from betty.valuation.trust.datamodeling import Datamodeling, datamodeling
from betty.valuation.trust.exact import Agreement, compare
from betty.valuation.trust.retraining import Outcome, Progress, Trainer, random_subsets, retrained
from betty.valuation.trust.trust import Trust

if TYPE_CHECKING:
    from betty.valuation.valuation import Valuation

SMALL = 20_000
"""Parameters up to which scores are compared with exact ones."""
DENSE = 2_000
"""Parameters up to which the exact solve takes the whole matrix; beyond, conjugate gradients."""
COMPARED = 32
"""Queries that are compared with exact scores by conjugate gradients."""
LEAST = 10
"""Subsets below which no correlation over them is worth its name."""
LEFT_OUT = (0.01, 0.03, 0.1)
"""Parts of the examples that are left out, where nothing else is said."""

Retrain = Callable[[Tensor, int], "nn.Module | Outcome | Tensor | Sequence[float]"]
"""From the ids of the kept examples (int64) and a seed to a trained model, or to the queries' losses."""


@dataclass(frozen=True)
class Shares:
    """How often the model is trained for what.

    Args:
        subsets: Trainings on random halves.
        queries: Queries of the curve.
        counts: How many examples the curve leaves out.
    """

    subsets: int
    queries: int
    counts: tuple[int, ...]


def check(  # noqa: PLR0913 - one keyword for each independent choice
    valuation: Valuation,
    queries: Any,
    *,
    train: Retrain | None = None,
    retrainings: int = 60,
    seeds: int = 1,
    leave_out: Sequence[int] | None = None,
    reference: str | dict[str, Any] | None = None,
    limit: int = SMALL,
    data: Any = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Trust:
    """Compare scores with exact influence, and with what training again on parts of the data gives.

    Args:
        valuation: What has logged the training examples.
        queries: As for :meth:`Valuation.score`.
        train: ``train(ids, seed)`` trains on the examples of these ids and gives the model, or the losses of the
            queries (an :class:`Outcome` with predicted classes, too); the scores are not compared with training
            again without.
        retrainings: How many trainings there may be: two thirds on random halves, for the linear datamodeling score,
            and the rest without the examples that help a query most.
        seeds: Trainings on each half, whose mean is compared; two or more also tell the most that can be reached.
        leave_out: How many examples the curve leaves out; 1, 3 and 10 per cent by default.
        reference: Method of the exact scores; the whole Gauss-Newton matrix by default, and the whole Hessian for a
            valuation that takes that matrix itself.
        limit: Parameters up to which there are exact scores.
        data: The training data, where the valuation has not logged it in this process.
        seed: Of subsets and trainings.
        progress: Told what is being done, and how many trainings are done.

    Raises:
        BettyError: Nothing has been logged, or ``train`` gives something else.

    Reference: Park et al. (2023), arXiv:2303.14186, definition 2.4 (linear datamodeling score); Ilyas et al. (2022),
    arXiv:2202.00622, section 4.1 (brittleness).
    """
    asked = to_batches(queries, valuation._device())
    scores, notes = valuation.score(asked), []
    chosen = _reference(valuation, reference)
    exact, why = _exact(valuation, asked, scores, chosen, limit, data)
    notes += [why] if why else []
    trainer = _trainer(valuation, asked, train, len(scores), progress) if train is not None else None
    found, curve = None, None
    if trainer is None:
        notes.append("no model was trained again: give train=..., or --retrainings of a spec")
    elif valuation._tokens:
        notes.append("values of tokens are not compared with training again, which leaves whole examples out")
    else:
        found, curve, more = _trained(trainer, scores, retrainings, seeds, leave_out, seed)
        notes += more
    return Trust(
        method=valuation.method.method.brief(),
        examples=scores.shape[1],
        queries=len(scores),
        parameters=_parameters(valuation),
        reference=_named(chosen),
        exact=exact,
        datamodeling=found,
        curve=curve,
        trainings=trainer.calls if trainer is not None else 0,
        notes=tuple(notes),
    )


# Beside exact influence


def exact_scores(valuation: Valuation, queries: Any, method: Chosen, data: Any = None) -> Tensor:
    """Scores by another method, ``[queries, examples]``, in the columns of the valuation; nothing is stored.

    Raises:
        BettyError: The training data is not known.
    """
    source = valuation._data if data is None else to_batches(data, valuation._device())
    if source is None:
        raise BettyError("the training data is not known in this process: give data=train_loader")
    sweep = valuation._sweep
    fitted = Fitter(method, sweep, weight_decay=valuation._weight_decay, offload=False).fit(source)
    assert fitted.inverse is not None, "solves have one"
    batches = to_batches(queries, valuation._device())
    asked = torch.cat([fitted.space.rows(taken) for _, taken, _ in sweep.over(batches, valuation._query)])
    solved = fitted.inverse.solve(asked)
    ids, parts = [], []
    for batch, taken, _ in sweep.over(source):
        rows = fitted.space.rows(taken)
        parts.append((solved.to(rows) @ rows.T).cpu())
        ids.append(batch.ids)
    found = torch.empty(len(asked), len(valuation.ids), dtype=parts[0].dtype)
    found[:, valuation.places(torch.cat(ids))] = torch.cat(parts, 1)
    return found.mul_(-1.0 / valuation._count())


def _exact(
    valuation: Valuation, queries: Batches, scores: Tensor, method: Chosen, limit: int, data: Any
) -> tuple[Agreement | None, str]:
    """The agreement with exact scores, or why there is none."""
    size = _parameters(valuation)
    if size > limit:
        return None, f"the model's {size:,} parameters are too many for exact influence (limit={limit:,})"
    if valuation._tokens:
        return None, "values of tokens are not compared with exact influence, which is of whole examples"
    if valuation._data is None and data is None:
        return None, "no exact influence: the training data is not known in this process, give data=train_loader"
    if valuation.task.outputs is None and method.options.get("curvature") == "gauss_newton":
        return None, "no exact influence: the Gauss-Newton matrix needs the model's outputs, give outputs=..."
    few = min(len(scores), COMPARED) if method.name == "cg" else len(scores)
    return compare(scores[:few], exact_scores(valuation, _first(queries, few), method, data)), ""


def _first(queries: Batches, count: int) -> list[Any]:
    batches, left = [], count
    for batch in queries:
        if left <= 0:
            break
        batches.append(batch.data if batch.count <= left else cut(batch.data, left))
        left -= batch.count
    return batches


def _reference(valuation: Valuation, asked: str | dict[str, Any] | None) -> Chosen:
    """How exact scores are had. Damping is the valuation's own where that is a solve, so that one thing differs."""
    if asked is not None:
        return choose(asked, {})
    size, own = _parameters(valuation), valuation.method
    solver: dict[str, Any] = {"name": "dense", "limit": DENSE}
    if size > DENSE:
        solver = {"name": "cg", "iterations": 200, "tolerance": 1e-6}
    if own.declared.solves:
        solver |= {name: own[name] for name in ("damping", "damping_units")}
        itself = own.name in {"cg", "dense"} and own["curvature"] == "gauss_newton"
        # With the Hessian conjugate gradients may meet negative curvature; the matrix has none of that trouble.
        if itself and size <= DENSE:
            solver["curvature"] = "hessian"
    return choose(solver, {})


def _named(method: Chosen) -> str:
    matrix = {"gauss_newton": "Gauss-Newton", "hessian": "Hessian"}.get(str(method.options.get("curvature")))
    return f"exact influence ({matrix})" if matrix else f"the scores of {method.method.brief()}"


def _parameters(valuation: Valuation) -> int:
    return sum(unit.size for unit in valuation.units)


# Beside training again


def shares(retrainings: int, seeds: int, examples: int, queries: int, leave_out: Sequence[int] | None) -> Shares:
    """What a number of trainings is spent on: two thirds on halves, the rest on the curve."""
    halves = max(min(LEAST, retrainings // seeds), round(2 * retrainings / 3) // seeds)
    counts = leave_out if leave_out is not None else [round(part * examples) for part in LEFT_OUT]
    removed = tuple(sorted({max(1, int(one)) for one in counts if one < examples}))
    left = retrainings - halves * seeds - 1
    some = min(queries, left // len(removed) - 1) if removed else 0
    return Shares(halves, max(0, some), removed)


def _trained(
    trainer: Trainer,
    scores: Tensor,
    retrainings: int,
    seeds: int,
    leave_out: Sequence[int] | None,
    seed: int,
) -> tuple[Datamodeling | None, Curve | None, list[str]]:
    share = shares(retrainings, max(1, seeds), scores.shape[1], len(scores), leave_out)
    found, curve, notes = None, None, []
    if share.subsets >= LEAST:
        subsets = random_subsets(scores.shape[1], share.subsets, seed=seed)
        measured = retrained(trainer, subsets, seeds=max(1, seeds), seed=seed)
        found = datamodeling(scores, subsets, measured, seed=seed)
    else:
        notes.append(f"{plural(retrainings, 'training')}: too few for a correlation, which takes {LEAST} halves")
    if share.queries and found is not None:
        curve = brittleness(trainer, scores, share.counts, queries=range(share.queries), seed=seed)
    elif found is not None:
        notes.append("no trainings were left for the curve of examples left out: allow more")
    return found, curve, notes


def _trainer(valuation: Valuation, queries: Batches, train: Retrain, count: int, progress: Progress | None) -> Trainer:
    """The user's training function, told ids and asked for losses."""
    ids = valuation.ids

    def trained(kept: Tensor, seed: int) -> Outcome | Tensor | Sequence[float]:
        found = train(ids[kept], seed)
        return Outcome(*answers(valuation, queries, found)) if isinstance(found, nn.Module) else found

    return Trainer(trained, len(ids), count, progress)
