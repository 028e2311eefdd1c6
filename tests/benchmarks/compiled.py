"""What ``engine.compile`` gains: the same program eager and compiled, side by side in one run.

Run ``python -m tests.benchmarks.compiled [PROGRAM ...]``. One upper weighs the examples of the lower's loss; an
iteration is a step of the lower (SGD with momentum), a step of the upper (Adam) and the response between them; without
an upper it is the lower's step alone. Blocks of both alternate within one process; the median of their ratios is
printed, and the seconds of the first iterations, in which everything is compiled.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from betty import Engine
from tests.benchmarks.handwritten import STEPS, losses
from tests.benchmarks.models import PROGRAMS, batch, ratios

METHODS: Mapping[str, Any] = {
    "no upper": None,
    "finite_difference": "finite_difference",
    "sama": "sama",
    "identity + forward": {"inverse": "identity", "product": "forward"},
    "identity + reverse": {"inverse": "identity", "product": "reverse"},
    "cg + reverse, 5 iterations": {"name": "cg", "iterations": 5, "tolerance": 0.0},
}


def engine(make: Callable[[], nn.Module], shape: tuple[int, ...], method: Any, *, compiled: bool) -> Engine:
    torch.manual_seed(0)
    weighted, clean = losses()
    net: dict[str, Any] = {
        "module": make(),
        "loss": clean if method is None else weighted,
        "data": [batch(shape)],
        "optimizer": {"target": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9},
    }
    weights: dict[str, Any] = {
        "parameters": {"logit": {"shape": [shape[0]]}},
        "loss": clean,
        "data": [batch(shape)],
        "optimizer": {"target": "torch.optim.Adam", "lr": 0.01},
    }
    edge = {"upper": "weights", "lower": "net", "method": method}
    return Engine(
        {
            "name": "benchmark",
            "problems": {"net": net} if method is None else {"net": net, "weights": weights},
            "edges": [] if method is None else [edge],
            "engine": {"device": "cpu", "compile": compiled, "log": {"every": 1_000_000}},
        }
    )


def row(name: str, method: Any) -> tuple[float, float]:
    """Time of the compiled program in units of the eager one, and seconds of its first two iterations."""
    make, shape = PROGRAMS[name]
    eager, compiled = (engine(make, shape, method, compiled=one) for one in (False, True))
    start = time.perf_counter()
    compiled.run(2)
    seconds = time.perf_counter() - start
    steps = STEPS[name]
    return ratios((partial(eager.run, steps), partial(compiled.run, steps)), repeats=1, blocks=15)[1], seconds


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'program':10} {'method':28} {'ratio':>6} {'first':>8}   compiled over eager, seconds to compile")
    for name in sys.argv[1:] or PROGRAMS:
        for label, method in METHODS.items():
            ratio, seconds = row(name, method)
            print(f"{name:10} {label:28} {ratio:6.2f} {seconds:8.1f}", flush=True)


if __name__ == "__main__":
    main()
