"""Every method that applies to hyper-cleaning, in one table: accuracy, hypergradient, time and memory.

Run with ``python examples/hyper_cleaning/methods.py``; ``--methods cg minres`` takes some of them alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from betty import Engine
from betty.backends.torch.profiler import StorageWatch

SPEC = Path(__file__).with_name("spec.yaml")
PERIOD = 5
"""Iterations between two steps of the weigher."""
BLOCK, BLOCKS = 4 * PERIOD, 7
"""Iterations for which a method is timed before the next one has its turn, and how often each has one."""
UNIT = "finite_difference"
METHODS: Mapping[str, str] = {
    "unrolled": "unrolled",
    "unrolled, remat": "{name: unrolled, remat: true}",
    "unrolled, last update": "{name: unrolled, truncate: 1}",
    "finite_difference": "finite_difference",
    "identity": "identity",
    "sama": "sama",
    "sama + forward": "{inverse: sama, product: forward}",
    "neumann": "{name: neumann, alpha: 0.1}",
    "cg": "cg",
    "cg, damped": "{name: cg, damping: 1.0}",
    "minres": "minres",
    "nystrom": "{name: nystrom, damping: 1.0}",
    "penalty": "penalty",
    "evolution_strategies": "evolution_strategies",
}
"""As a spec has them, by the name in the table."""


@dataclass(frozen=True)
class Row:
    """What the table says of one method.

    Args:
        accuracies: On the test images after the last iteration, a seed each, from 0 to 1.
        cosine: Between its hypergradient and the exact derivative of the last five updates, mean over the points.
        error: Length of the difference between the two in units of the latter's length, at the worst of the points.
        time: Of an iteration, in units of one with ``finite_difference``.
        memory: Peak of tensors that come to life in an iteration or before it, in MiB.
    """

    accuracies: Sequence[float]
    cosine: float
    error: float
    time: float
    memory: float

    def text(self, name: str) -> str:
        mean = 100 * statistics.mean(self.accuracies)
        spread = 100 * (max(self.accuracies) - min(self.accuracies)) / 2
        found = f"{mean:.1f} ± {spread:.1f} %"
        costs = f"{self.time:5.2f} | {self.memory:6.2f}"
        return f"| {name:22} | {found:>13} | {self.cosine:6.2f} | {self.error:7.1e} | {costs} |"


def engine(method: str, seed: int = 0, iterations: int = 1500) -> Engine:
    """The example with another method, seed and length."""
    seeded = ("problems.classifier.data.args", "problems.weigher.data.args", "engine.validate.args", "engine")
    length = (f"engine.iterations={iterations}", f"engine.validate.every={iterations}", "engine.log.every=1000000")
    return Engine(SPEC, overrides=[f"edges[0].method={method}", *(f"{place}.seed={seed}" for place in seeded), *length])


def accuracy(method: str, seed: int, iterations: int) -> float:
    return engine(method, seed, iterations).run().metrics["validate.accuracy"]


def agreement(methods: Sequence[str], points: int) -> list[tuple[float, float]]:
    """Cosine and error of every method's hypergradient, all at the same points of one run, the spec's own."""
    meant = [engine(method).graph.edges[0].method for method in methods]
    checked = engine("unrolled").check(
        points=points,
        reference="unrolled",
        most_steps=math.inf,
        methods=[method for method in meant if method is not None],
    )
    rows = {row.method: row for row in checked.check.edges[0].rows}
    asked = [rows[method] for method in meant if method is not None]
    # A hypergradient of zero, which points nowhere, counts as 0.
    angles = [[0.0 if math.isnan(one.cosine) else one.cosine for one in row.measurements] for row in asked]
    return [(statistics.mean(found), row.error) for found, row in zip(angles, asked, strict=True)]


def times(methods: Sequence[str], blocks: int) -> list[float]:
    """Time of an iteration in units of one with ``finite_difference``: all have their turn, the median turn counts."""
    engines = {method: engine(method) for method in (UNIT, *methods)}
    turns = [{method: _seconds(one) for method, one in engines.items()} for _ in range(blocks + 1)]
    return [statistics.median(turn[method] / turn[UNIT] for turn in turns[1:]) for method in methods]  # one warms up


def _seconds(one: Engine) -> float:
    start = time.perf_counter()
    one.run(BLOCK)
    return time.perf_counter() - start


def memory(method: str) -> float:
    """MiB at the peak of the first two steps of the weigher and of what leads up to them; data and modules aside."""
    one = engine(method)
    with StorageWatch() as watch:
        one.run(2 * PERIOD)
    return watch.peak / 2**20


def table(names: Sequence[str], seeds: Sequence[int], iterations: int, points: int, blocks: int) -> dict[str, Row]:
    """A row for every method."""
    methods = [METHODS[name] for name in names]
    found = zip(names, methods, agreement(methods, points), times(methods, blocks), strict=True)
    return {
        name: Row([accuracy(method, seed, iterations) for seed in seeds], cosine, error, cost, memory(method))
        for name, method, (cosine, error), cost in found
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=1500, help="of every run that ends in an accuracy")
    parser.add_argument("--points", type=int, default=3, help="points of training at which hypergradients are compared")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="turns in which each method is timed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = table(options.methods, options.seeds, options.iterations, options.points, options.blocks)
    print(f"| {'method':22} | {'test accuracy':>13} | cosine | {'error':>7} |  time | memory |")
    print(f"|:{'-' * 22}-|-{'-' * 13}:|-------:|--------:|------:|-------:|")
    for name, row in rows.items():
        print(row.text(name))


if __name__ == "__main__":
    main()
