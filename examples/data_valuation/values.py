"""Find the wrong labels, train again without what looks wrong, and show what explains the test errors.

python examples/data_valuation/values.py [--seed 0] [--picture examples.png]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent))

from program import TRAIN, Classifier, Split, digits, split

from betty.valuation import Valuation

METHODS = ("ekfac", "kfac", "logra", "identity")


def trained(data: Split, keep: Tensor, seed: int, updates: int = 800) -> Classifier:
    """A classifier trained on the examples that are kept, as the spec has it."""
    torch.manual_seed(seed)
    model = Classifier(64)
    images, labels = data.train[0][keep], data.train[1][keep]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.001)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=updates)
    for _ in range(updates):
        rows = torch.randint(len(labels), (50,))
        optimizer.zero_grad()
        functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return model


def auc(values: Tensor, positive: Tensor) -> float:
    """How often a positive example has the greater value than a negative one: the area under the ROC curve."""
    order = values.argsort()
    ranks = torch.empty(len(values)).scatter_(0, order, torch.arange(1.0, len(values) + 1))
    count = int(positive.sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(values) - count)))


def tested(models: list[Classifier], data: Split) -> tuple[float, float]:
    """The mean accuracy and loss of models on the test set."""
    images, labels = data.test
    with torch.no_grad():
        outputs = [model(images) for model in models]
    right = [float((found.argmax(1) == labels).float().mean()) for found in outputs]
    losses = [float(functional.cross_entropy(found, labels)) for found in outputs]
    return sum(right) / len(right), sum(losses) / len(losses)


def valued(model: nn.Module, seed: int, method: str) -> Valuation:
    valuation = Valuation(model, nn.CrossEntropyLoss(), method=method, weight_decay=0.001)
    return valuation.log(DataLoader(digits(seed), batch_size=150))


def picture(valuation: Valuation, model: nn.Module, data: Split, path: Path, shown: int = 6) -> None:
    """Draw the first test errors, each beside the examples that help it most and that harm it most."""
    import matplotlib.pyplot as plt

    wrong = (model(data.test[0]).argmax(1) != data.test[1]).nonzero().flatten()[:shown]
    top = valuation.top([(data.test[0][wrong], data.test[1][wrong])], k=5)
    guesses = model(data.test[0][wrong]).argmax(1)
    figure, axes = plt.subplots(len(wrong), 11, figsize=(11, 1.25 * len(wrong)))
    for row, query in enumerate(wrong.tolist()):
        title = f"{int(data.test[1][query])}, seen as {int(guesses[row])}"
        _image(axes[row][0], data.test[0][query], title, "black")
        for place, one in enumerate([*top.helpful[row].tolist(), *top.harmful[row].tolist()]):
            colour = "tab:green" if place < 5 else "tab:red"
            label = f"{int(data.train[1][one])}" + (f" (is {int(data.truth[one])})" if data.flipped[one] else "")
            _image(axes[row][place + 1], data.train[0][one], label, colour)
    axes[0][3].text(3.5, -5, "most helpful examples", ha="center", color="tab:green")
    axes[0][8].text(3.5, -5, "most harmful examples", ha="center", color="tab:red")
    figure.tight_layout(pad=0.4, rect=(0, 0, 1, 0.96))
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _image(axis: Any, pixels: Tensor, title: str, colour: str) -> None:
    axis.imshow(pixels.view(8, 8), cmap="gray_r")
    axis.set_title(title, fontsize=7, color=colour)
    axis.set_xticks([])
    axis.set_yticks([])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    data = split(asked.seed)
    model = trained(data, torch.arange(TRAIN), asked.seed)
    print(
        f"{int(data.flipped.sum())} of {TRAIN} training labels are wrong; test accuracy {tested([model], data)[0]:.3f}"
    )
    found = {method: valued(model, asked.seed, method) for method in METHODS}
    print("\nmethod     AUC of wrong labels by self-influence   wrong among the first 135")
    for method, valuation in found.items():
        own = valuation.self_influence()
        first = own.argsort(descending=True)[: int(data.flipped.sum())]
        print(f"{method:<10} {auc(own, data.flipped):.4f}{'':<35} {float(data.flipped[first].float().mean()):.3f}")
    own = found["ekfac"].self_influence()
    print(f"\n{'trained again on, mean of 5 trainings':<45} test accuracy   test loss")
    for name, keep in {
        "all": torch.arange(TRAIN),
        "without the 135 of highest self-influence": own.argsort()[: TRAIN - 135],
        "without 135 at random": torch.randperm(TRAIN, generator=torch.Generator().manual_seed(1))[: TRAIN - 135],
        "the right labels only": (~data.flipped).nonzero().flatten(),
    }.items():
        right, loss = tested([trained(data, keep, asked.seed + place) for place in range(5)], data)
        print(f"{name:<45} {right:.3f}{'':<11} {loss:.3f}")
    if asked.picture:
        picture(found["ekfac"], model, data, asked.picture)
        print(f"\ntest errors and their examples drawn in {asked.picture}")


if __name__ == "__main__":
    main()
