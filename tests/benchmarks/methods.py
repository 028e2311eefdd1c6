"""The time of every implicit response in units of the lower's plain training step.

Run ``python -m tests.benchmarks.methods``. One upper weighs the examples of the lower's loss. The unit is what a user
writes without betty: loss, backward pass, SGD with momentum. A response is a solve and a mixed product, with the
adjoint given; an iterative inverse takes five iterations, a sketch five directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from betty.backends.torch.methods import Aid, Lower
from betty.backends.torch.objective import Objective, ParameterModule, Sample, trainable
from betty.backends.torch.respond import answer_by_solve
from betty.backends.torch.tape import Adjoint
from betty.ir.methods import INVERSES, PRODUCTS, Method, complete
from tests.benchmarks.models import PROGRAMS, batch, ratios

SHOWN = [("identity", product) for product in PRODUCTS] + [
    (inverse, product) for inverse in ("neumann", "cg", "minres", "nystrom") for product in PRODUCTS
]


def weighted(batch: Any, low: Any, up: Any) -> Tensor:
    inputs, labels = batch
    weights = torch.sigmoid(up.parameters["logit"])
    return (weights * F.cross_entropy(low(inputs), labels, reduction="none")).mean()


def responses(module: nn.Module, shape: tuple[int, ...]) -> list[Callable[[], object]]:
    modules = {"low": module, "up": ParameterModule({"logit": torch.zeros(shape[0])})}
    objective = Objective("low", weighted, modules, takes_batch=True, device=torch.device("cpu"))
    reads = {"up": trainable(modules["up"])}
    point = Lower("low", objective, [Sample(batch(shape))], trainable(module), reads)
    adjoint = Adjoint()
    adjoint.gain(0, tuple(torch.randn_like(leaf) for leaf in point.parameters))
    return [_response(point, adjoint, _method(*pair)) for pair in SHOWN]


def _method(inverse: str, product: str) -> Method:
    wanted = {"iterations": 5, "rank": 5, "tolerance": 0.0, "damping": 100.0}
    options = {key: value for key, value in wanted.items() if key in INVERSES[inverse].options}
    return Method(
        solver=complete(inverse, INVERSES[inverse], options), product=complete(product, PRODUCTS[product], {})
    )


def _response(point: Lower, adjoint: Adjoint, method: Method) -> Callable[[], object]:
    return lambda: answer_by_solve(point, adjoint, method, Aid())


def training_step(module: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    inputs, labels = batch(shape)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(module(inputs), labels).backward()
        optimizer.step()

    return step


def main() -> None:
    torch.set_num_threads(1)
    columns = {}
    for name, (make, shape) in PROGRAMS.items():
        torch.manual_seed(0)
        module = make()
        runs = [training_step(module, shape), *responses(module, shape)]
        columns[name] = ratios(runs, repeats=20 if name == "MLP" else 3)[1:]
    print(f"{'inverse':10} {'product':18} " + " ".join(f"{name:>9}" for name in columns))
    for index, (inverse, product) in enumerate(SHOWN):
        times = " ".join(f"{column[index]:9.2f}" for column in columns.values())
        print(f"{inverse:10} {product:18} {times}")


if __name__ == "__main__":
    main()
