"""The peak that ``betty compile`` expects beside the one that is measured.

Run ``python -m tests.benchmarks.memory``. What tensors take is watched over the first six steps of the upper, from
before the first update; a row says what was expected, what was found, and the ratio, with and without activations that
are computed again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from betty import Engine
from betty.backends.torch.profiler import StorageWatch, held_bytes
from tests.benchmarks.handwritten import losses
from tests.benchmarks.models import PROGRAMS, batch

METHODS: dict[str, tuple[Any, int]] = {
    "sama": ("sama", 1),
    "cg, 3 iterations": ({"name": "cg", "iterations": 3}, 1),
    "neumann, 3 iterations": ({"name": "neumann", "iterations": 3}, 1),
    "identity + forward": ({"inverse": "identity", "product": "forward"}, 1),
    "unrolled, 3 updates": ("unrolled", 3),
}


def engine(name: str, method: Any, unroll: int, again: bool) -> Engine:
    make, shape = PROGRAMS[name]
    torch.manual_seed(0)
    weighted, clean = losses()
    adam = {"target": "torch.optim.Adam", "lr": 1e-3}
    module: nn.Module = make()
    lower = {"module": module, "loss": weighted, "data": [batch(shape)], "optimizer": adam, "unroll": unroll}
    upper = {"parameters": {"logit": {"shape": [shape[0]]}}, "loss": clean, "data": [batch(shape)], "optimizer": adam}
    return Engine(
        {
            "name": "memory",
            "problems": {"net": {**lower, "activation_checkpointing": again}, "weights": upper},
            "edges": [{"upper": "weights", "lower": "net", "method": method}],
            "engine": {"device": "cpu", "log": {"every": 1_000_000}},
        }
    )


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'program':8} {'method':22} {'again':>5} {'expected':>10} {'measured':>10} {'ratio':>6}")
    for name in ("encoder", "ResNet", "MLP"):
        for label, (method, unroll) in METHODS.items():
            for again in (False, True):
                try:
                    one = engine(name, method, unroll, again)
                except Exception as error:  # a method that a program's operations do not allow
                    print(f"{name:8} {label:22} {again!s:>5} {str(error).splitlines()[0][:70]}")
                    continue
                held = held_bytes(one._program)
                with StorageWatch() as watch:
                    one.run(6 * unroll)
                found, expected = held + watch.peak, one.plan.peak.bytes if one.plan.peak else 0
                ratio = expected / found
                print(
                    f"{name:8} {label:22} {again!s:>5} {expected / 1e6:>7.2f} MB {found / 1e6:>7.2f} MB {ratio:>6.2f}"
                )


if __name__ == "__main__":
    main()
