"""The hypergradient against its closed form, and the learned regularisation against simpler ones.

Run with ``python examples/ridge_hpo/compare.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from program import FEATURES, NOISE_FEATURES, diabetes, exact_hypergradient, exact_weights, squared_error
from torch import Tensor

from betty import Engine

SPEC = Path(__file__).with_name("spec.yaml")
GRID = torch.linspace(-8, 4, 49, dtype=torch.float64)
"""Logarithms of the single strengths that are tried."""


def engine_for(seed: int, *overrides: str) -> Engine:
    seeded = ("problems.ridge.data.args", "problems.regulariser.data.args", "engine.validate.args", "engine")
    return Engine(SPEC, overrides=[*(f"{place}.seed={seed}" for place in seeded), *overrides])


def log_decay_of(engine: Engine) -> Tensor:
    return engine.modules["regulariser"].get_parameter("log_weight_decay").detach()


def learned(seed: int) -> Tensor:
    """The logarithms of the strengths that a run of the spec ends with."""
    engine = engine_for(seed)
    engine.run()
    return log_decay_of(engine).clone()


def relative_error(seed: int, log_decay: Tensor, steps: int) -> float:
    """Of the engine's hypergradient at ``log_decay``, after so many steps of the lower problem from zero weights."""
    engine = engine_for(seed, f"problems.ridge.unroll={steps + 1}")  # the upper does not step within this run
    log_decay_of(engine).copy_(log_decay)
    engine.run(steps)
    found = engine.hypergradient("regulariser")["log_weight_decay"]
    exact = exact_hypergradient(log_decay, diabetes(seed)["train"], diabetes(seed)["validation"])
    return ((found - exact).norm() / exact.norm()).item()


def single(seed: int) -> Tensor:
    """The one strength for all features that does best on the validation data."""
    candidates = [value.expand(FEATURES + NOISE_FEATURES) for value in GRID]
    return min(candidates, key=lambda log_decay: scores(seed, log_decay)[0])


def scores(seed: int, log_decay: Tensor) -> list[float]:
    """Of the regression with these strengths, solved exactly: validation and test error, and the mean size of the
    weights of real features and of noise.
    """
    weights = exact_weights(log_decay, diabetes(seed)["train"])
    found = [squared_error(weights, seed, part) for part in ("validation", "test")]
    found += [part.abs().mean() for part in weights.split([FEATURES, NOISE_FEATURES])]
    return [value.item() for value in found]


def row(name: str, rows: list[list[float]]) -> str:
    table = torch.tensor(rows)
    cells = [f"{mean:.3f} ± {std:.3f}" for mean, std in zip(table.mean(dim=0), table.std(dim=0), strict=True)]
    return f"{name:36} {'   '.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    decays = {seed: learned(seed) for seed in seeds}
    print("lower steps   relative error of the hypergradient")
    for steps in (25, 50, 100, 200, 400):
        print(f"{steps:11}   {relative_error(seeds[0], decays[seeds[0]], steps):.1e}")
    nothing = torch.full((FEATURES + NOISE_FEATURES,), -torch.inf, dtype=torch.float64)
    print(f"\n{'':36} validation error  test error      |weight| real   |weight| noise")
    print(row("no regularisation", [scores(seed, nothing) for seed in seeds]))
    print(row("best single strength", [scores(seed, single(seed)) for seed in seeds]))
    print(row("a learned strength for each feature", [scores(seed, decays[seed]) for seed in seeds]))


if __name__ == "__main__":
    main()
