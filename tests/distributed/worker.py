"""Runs cases, one after another, in one process or in one of several: ``python -m tests.distributed.worker FOLDER``.

``FOLDER/cases.<count>.json`` lists them, ``FOLDER/<case>.yaml`` is a case's spec; what a process has found is written
beside it as ``<case>.<count>.<rank>.pt``.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from betty import Engine
from betty.backends.torch.gathering import whole_state
from betty.backends.torch.reduction import Reduction
from betty.backends.torch.tree import Tree


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is run of a spec, and what is asked on the way."""

    name: str
    spec: str
    upper: str
    overrides: tuple[str, ...] = ()
    before: int = 4
    """Iterations before the hypergradient is asked for."""
    after: int = 0
    """Iterations after it."""


def run(case: Case, folder: Path) -> dict[str, Any]:
    """The hypergradient at some point of training, and where training leads."""
    engine = Engine(folder / f"{case.name}.yaml", overrides=case.overrides)
    engine.run(case.before)
    processes = engine._program.processes
    before = (processes.traffic.calls, processes.traffic.bytes) if processes else (0, 0)
    found: dict[str, Any] = {"hypergradient": engine.hypergradient(case.upper)}
    after = (processes.traffic.calls, processes.traffic.bytes) if processes else (0, 0)
    found["met"] = [later - earlier for earlier, later in zip(before, after, strict=True)]
    planned = [item.exchange for item in engine.plan.step(case.upper).instructions if item.exchange is not None]
    found["early"] = early = []
    finish = Reduction.finish

    def finished(self: Reduction, gradient: Tree, idle: set[int]) -> tuple[Tree, set[int]]:
        if self._parameters is engine._program[case.upper].parameters:
            early.append((len(self._sent), len(self._buckets)))
        return finish(self, gradient, idle)

    Reduction.finish = finished  # type: ignore[method-assign]
    found["planned"] = [sum(one.calls for one in planned), sum(one.bytes for one in planned)]
    history = engine.run(case.after).history if case.after else []
    Reduction.finish = finish  # type: ignore[method-assign]
    found["rows"] = [dict(row) for row in history]
    found["weights"] = {name: whole_state(module) for name, module in engine.modules.items()}
    return found


def main(folder: Path) -> None:
    rank, count = (int(os.environ.get(key, default)) for key, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    for values in json.loads((folder / f"cases.{count}.json").read_text()):
        case = Case(**{**values, "overrides": tuple(values["overrides"])})
        try:
            found = run(case, folder)
        except Exception:
            found = {"error": traceback.format_exc()}
        torch.save(found, folder / f"{case.name}.{count}.{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
