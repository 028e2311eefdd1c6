"""Programs whose hypergradients several processes compute together, and what is compared of them."""

from __future__ import annotations

PROGRAM = """\
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

SIZE = 26  # the last batch of an epoch is a smaller one, which two or four processes cannot share evenly


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))

    def forward(self, x):
        return self.layers(x)


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(SIZE))

    def forward(self, index):
        return torch.sigmoid(self.logit[index])


def examples(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SIZE, 3, generator=generator)
    return TensorDataset(x, (x.sum(1) > 0).long(), torch.arange(SIZE))


def batches(seed):  # a loader of the program's own, with the order of its sampler
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(examples(seed), batch_size=9, shuffle=True, generator=generator)


def fit(batch, net, weights):
    x, y, index = batch
    loss = (weights(index) * F.cross_entropy(net(x), y, reduction="none")).mean()
    return {"loss": loss + 0.05 * sum(one.square().sum() for one in net.parameters.values()), "accuracy": 1.0}


def judge(batch, net, weights, rate):
    x, y, _ = batch
    size = (weights.parameters["logit"] ** 2).mean()
    return F.cross_entropy(net(x), y) + 0.3 * rate.parameters["decay"].exp() * size


def outer(batch, net, weights):
    x, y, _ = batch
    return F.cross_entropy(net(x), y) + 0.1 * weights.parameters["logit"].square().mean()


def start(batch, net):
    x, y, _ = batch
    return F.cross_entropy(net(x), y)


def top(batch, weights):
    return (weights.parameters["logit"][batch[2]] - 0.3).square().mean()


def measure(net):
    return {"size": sum(float(one.detach().square().sum()) for one in net.parameters.values())}
"""

TWO = """\
name: two
problems:
  net:
    module: program:Net
    loss: program:fit
    data: {target: program:examples, args: {seed: 0}, batch_size: 10}
    optimizer: {target: torch.optim.OPTIMIZER, lr: 0.05}
    unroll: 3
  weights:
    module: program:Weights
    loss: program:outer
    data: {target: program:batches, args: {seed: 1}}
    optimizer: {target: torch.optim.Adam, lr: 0.05}
edges:
  - {upper: weights, lower: net, flow: both, method: METHOD}
engine: {iterations: 24, device: cpu, log: {every: 5}, validate: {target: program:measure, every: 6}}
"""
THREE = TWO.replace("program:outer", "program:judge").replace(
    "edges:\n",
    """\
  rate:
    parameters: {decay: {shape: [], init: 0.1}}
    loss: program:top
    data: {target: program:examples, args: {seed: 2}, batch_size: 13}
    optimizer: {target: torch.optim.Adam, lr: 0.1}
edges:
  - {upper: rate, lower: weights, flow: both, method: METHOD}
""",
)
META = TWO.replace(
    "edges:\n",
    """\
  meta:
    module: program:Net
    loss: program:start
    data: {target: program:examples, args: {seed: 2}, batch_size: 8}
    optimizer: {target: torch.optim.Adam, lr: 0.05}
edges:
  - {upper: meta, lower: net, flow: both, method: METHOD}
""",
).replace("unroll: 3\n", "unroll: 4\n    initial: {from: meta}\n")

METHODS = {
    "finite_difference": "finite_difference",
    "identity+forward": "{inverse: identity, product: forward}",
    "sama": "sama",
    "sama+forward": "{inverse: sama, product: forward}",
    "cg": "{name: cg, iterations: 5, warm_start: true}",
    "cg+finite_difference": "{inverse: {name: cg, iterations: 3, damping: 0.1}, product: finite_difference}",
    "neumann": "{name: neumann, iterations: 5, alpha: 0.1, warm_start: true}",
    "nystrom": "{name: nystrom, rank: 4, damping: 0.1}",
    "minres": "{name: minres, iterations: 5}",
    "dense": "dense",
    "unrolled": "unrolled",
    "truncated": "{name: unrolled, steps: 7, truncate: 4}",
    "remat": "{name: unrolled, steps: 7, remat: true}",
    "forward_mode": "{name: forward_mode, reset: false}",
    "penalty": "{name: penalty, iterations: 3, multiplier: 10.0}",
    "evolution_strategies": "{name: evolution_strategies, samples: 2, steps: 3}",
}
