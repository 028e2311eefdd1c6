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
    found: dict[str, Any] = {"hypergradient": engine.hypergradient(case.upper)}
    history = engine.run(case.after).history if case.after else []
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
