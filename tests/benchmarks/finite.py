"""What it costs to look for numbers that are not finite: a run that does over one that does not, side by side.

Run ``python -m tests.benchmarks.finite``. The median over alternating blocks of one process is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from betty import Engine
from tests.benchmarks.handwritten import STEPS, losses
from tests.benchmarks.models import PROGRAMS, batch, ratios


def engine(name: str, *, looking: bool) -> Engine:
    make, shape = PROGRAMS[name]
    weighted, clean = losses()
    net: dict[str, Any] = {
        "module": make(),
        "loss": weighted,
        "data": [batch(shape)],
        "optimizer": {"target": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9},
    }
    weights = {
        "parameters": {"logit": {"shape": [shape[0]]}},
        "loss": clean,
        "data": [batch(shape)],
        "optimizer": {"target": "torch.optim.Adam", "lr": 0.01},
    }
    edge = {"upper": "weights", "lower": "net", "method": "finite_difference"}
    settings = {"device": "cpu", "log": {"every": 1_000_000}}
    found = Engine(
        {"name": "benchmark", "problems": {"net": net, "weights": weights}, "edges": [edge], "engine": settings}
    )
    if not looking:
        found._trainer.executor.watch.policy = None
    return found


def main() -> None:
    for name in PROGRAMS:
        runs: list[Callable[[], object]] = [
            partial(engine(name, looking=looking).run, STEPS[name]) for looking in (False, True)
        ]
        print(f"{name:8} {ratios(runs, repeats=3, blocks=15)[1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
