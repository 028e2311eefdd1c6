"""What checkpoints cost a run, at their default rate: the same program with and without them, in turn.

Run ``python -m tests.benchmarks.checkpointing``. A checkpoint is copied while training waits and written beside it, so
that what counts is a whole run, the last file included: its time, and the processor's time of all its threads, which
does not depend on what else the machine does.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from betty import Engine
from betty.spec.models import CheckpointSpec
from tests.benchmarks.handwritten import losses
from tests.benchmarks.models import PROGRAMS, batch

EVERY = CheckpointSpec().every
BLOCKS = 5
ITERATIONS = {"MLP": 3 * EVERY, "encoder": EVERY}


def engine(make: Callable[[], nn.Module], shape: tuple[int, ...], checkpoint: dict[str, Any] | None) -> Engine:
    torch.manual_seed(0)
    weighted, clean = losses()
    adam = {"target": "torch.optim.Adam", "lr": 1e-4}
    return Engine(
        {
            "name": "checkpointing",
            "problems": {
                "net": {"module": make(), "loss": weighted, "data": [batch(shape)], "optimizer": adam, "unroll": 5},
                "weights": {
                    "parameters": {"logit": {"shape": [shape[0]]}},
                    "loss": clean,
                    "data": [batch(shape)],
                    "optimizer": adam,
                },
            },
            "edges": [{"upper": "weights", "lower": "net", "method": "sama"}],
            "engine": {"device": "cpu", "log": {"every": 1_000_000}, "checkpoint": checkpoint},
        }
    )


def seconds(one: Engine, iterations: int) -> tuple[float, float]:
    """Of the clock, and of the processor."""
    folder = Path(tempfile.mkdtemp())
    try:
        start, worked = time.perf_counter(), time.process_time()
        one.run(iterations, out=folder / "run")
        return time.perf_counter() - start, time.process_time() - worked
    finally:
        shutil.rmtree(folder)


def main() -> None:
    torch.set_num_threads(1)
    print(f"checkpoints every {EVERY} iterations; Adam, SAMA every 5")
    for name, iterations in ITERATIONS.items():
        make, shape = PROGRAMS[name]
        without, with_them = engine(make, shape, None), engine(make, shape, {})
        for one in (without, with_them):
            seconds(one, 20)
        pairs = [(seconds(without, iterations), seconds(with_them, iterations)) for _ in range(BLOCKS)]
        more, worked = (statistics.median(after[one] / before[one] for before, after in pairs) for one in (0, 1))
        step = statistics.median(before[0] for before, _ in pairs) / iterations
        print(
            f"  {name:<8} {step * 1e3:>7.2f} ms an iteration   with checkpoints x {more:.4f}, processor x {worked:.4f}"
        )


if __name__ == "__main__":
    main()
