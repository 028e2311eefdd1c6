"""Time of one upper step on diamonds in a row: ``python -m tests.benchmarks.diamonds``.

n diamonds have 4n + 2 edges and 2^n paths from the bottom to the top. The work should grow with the edges; the aim
is that n = 10 takes at most 6 times as long as n = 2 (42 edges against 10).
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.diamonds import METHODS, diamond_program
from tests.support.programs import Built

COUNTS = (1, 2, 4, 6, 8, 10)
REPEATS = 30


def milliseconds(built: Built) -> float:
    """The median of several steps of the top, after a few to warm up."""
    taken = []
    for index in range(REPEATS + 5):
        start = time.perf_counter()
        built.executor.step("top")
        if index >= 5:
            taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'':<30}" + "".join(f"{f'n = {count}':>9}" for count in COUNTS) + f"{'10 to 2':>9}")
    for name, method in METHODS.items():
        times = [milliseconds(diamond_program(count, method)) for count in COUNTS]
        two, ten = times[COUNTS.index(2)], times[COUNTS.index(10)]
        print(f"{name + ', ms':<30}" + "".join(f"{value:>9.2f}" for value in times) + f"{ten / two:>9.2f}")
        print(f"{'  to n = 2':<30}" + "".join(f"{value / two:>9.2f}" for value in times))


if __name__ == "__main__":
    main()
