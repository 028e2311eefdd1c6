"""Learned weights against what can be had without them, over five random splits.

Run with ``python examples/hyper_cleaning/compare.py``; ``--flip any`` shows an easier kind of noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from program import Classifier, clean_digits, correct, noisy_digits, split
from torch import Tensor
from torch.nn import functional

from betty import Engine

SPEC = Path(__file__).with_name("spec.yaml")
STEPS, BATCH = 1500, 100
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1)
Examples = tuple[Tensor, Tensor]


def learned(seed: int, flip: str) -> list[float]:
    """Test accuracy, mean weight of right labels and of flipped ones, after a run of the spec."""
    seeded = ("problems.classifier.data.args", "problems.weigher.data.args", "engine.validate.args", "engine")
    overrides = [f"{place}.seed={seed}" for place in seeded]
    result = Engine(SPEC, overrides=[*overrides, f"problems.classifier.data.args.flip={flip}"]).run()
    return [result.metrics[f"validate.{name}"] for name in ("accuracy", "weight_clean", "weight_flipped")]


def plain(seed: int, examples: Examples, lr: float) -> tuple[float, float]:
    """Plain training with the spec's network, optimiser and number of steps.

    Returns the test accuracy after the last step, and at the step that was best on the clean set (the later one of
    equals; looked at every 25 steps).
    """
    torch.manual_seed(seed)
    network = Classifier(width=64)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=0.003)
    best = (0.0, 0.0)
    for step, (images, labels) in enumerate(batches(examples), start=1):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        if step % 25 == 0:
            now = accuracy(network, split(seed).clean), accuracy(network, split(seed).test)
            best = now if now[0] >= best[0] else best
    return now[1], best[1]


def batches(examples: Examples) -> Iterator[Examples]:
    images, labels = examples
    for _ in range(STEPS):
        chosen = torch.randperm(len(labels))[:BATCH]
        yield images[chosen], labels[chosen]


@torch.no_grad()
def accuracy(network: Classifier, examples: Examples) -> float:
    return correct(network(examples[0]), examples[1]).item()


def tuned(sets: Sequence[Examples], seeds: Sequence[int]) -> list[tuple[str, Tensor]]:
    """Test accuracy by seed, last step and early stopped, each at the learning rate with the best mean."""
    runs = torch.tensor(
        [[plain(seed, examples, lr) for seed, examples in zip(seeds, sets, strict=True)] for lr in LEARNING_RATES]
    )
    found = []
    for column, name in enumerate(("last step", "early stopped")):
        best = int(runs[:, :, column].mean(dim=1).argmax())
        found.append((f"{name}, lr {LEARNING_RATES[best]}", runs[best, :, column]))
    return found


def noisy(seed: int, flip: str) -> Examples:
    images, labels, _ = noisy_digits(seed, flip).tensors
    return images, labels


def right(seed: int, flip: str) -> Examples:
    """The training examples whose labels were left alone: what perfect weights would amount to."""
    images, labels = noisy(seed, flip)
    return images[~split(seed).flipped], labels[~split(seed).flipped]


def clean(seed: int, flip: str) -> Examples:
    images, labels = clean_digits(seed).tensors
    return images, labels


def spread(values: Tensor, unit: float = 100, digits: int = 1, sign: str = "") -> str:
    """Mean and standard deviation over the seeds, in percent by default."""
    return f"{unit * values.mean():{sign}.{digits}f} ± {unit * values.std():.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flip", choices=("next", "any"), default="next", help="what a wrong label is")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds, flip = options.seeds, options.flip
    reached, weight_clean, weight_flipped = torch.tensor([learned(seed, flip) for seed in seeds]).T
    print(f"mean weight of right labels {spread(weight_clean, 1, 2)}, of flipped ones {spread(weight_flipped, 1, 2)}\n")
    print(f"{'trained on':36} {'test accuracy':15} gain of learning")
    print(f"{'noisy labels with learned weights':36} {spread(reached)}")
    baselines: dict[str, Callable[[int, str], Examples]] = {
        "noisy labels alone": noisy,
        "clean set alone": clean,
        "right labels alone (out of reach)": right,
    }
    for name, examples in baselines.items():
        for rule, other in tuned([examples(seed, flip) for seed in seeds], seeds):
            print(f"{name:36} {spread(other):15} {spread(reached - other, sign='+'):15} {rule}")


if __name__ == "__main__":
    main()
