"""Small problems whose influence is known: ridge and softmax regression at their minimum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from betty.backends.torch.duals import load_formulas


@dataclass(frozen=True)
class Solved:
    """A linear model at the minimum of its training loss.

    Args:
        model: The model, float64.
        train: Inputs and targets.
        queries: Inputs and targets.
        decay: The weight decay of the training loss.
        loss: Of outputs and targets, with an entry for each example.
    """

    model: nn.Module
    train: tuple[Tensor, Tensor]
    queries: tuple[Tensor, Tensor]
    decay: float
    loss: nn.Module

    def influence(self) -> Tensor:
        """The closed form, ``[queries, examples]``: ``-(1/N) grad_q^T (H + decay)^-1 grad_i``."""
        hessian = self.hessian() + self.decay * torch.eye(self.flat().numel(), dtype=torch.float64)
        asked, given = self.gradients(*self.queries), self.gradients(*self.train)
        return -asked @ torch.linalg.solve(hessian, given.T) / len(given)

    def flat(self) -> Tensor:
        return torch.cat([leaf.detach().flatten() for leaf in self.model.parameters()])

    def losses(self, flat: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        named, start = {}, 0
        for name, leaf in self.model.named_parameters():
            named[name] = flat[start : start + leaf.numel()].view_as(leaf)
            start += leaf.numel()
        found: Tensor = self.loss(torch.func.functional_call(self.model, named, (inputs,)), targets)
        return found.flatten(1).sum(1) if found.dim() > 1 else found

    def gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(lambda flat: self.losses(flat, inputs, targets), self.flat())
        assert isinstance(jacobian, Tensor)
        return jacobian

    def hessian(self) -> Tensor:
        found = torch.autograd.functional.hessian(lambda flat: self.losses(flat, *self.train).mean(), self.flat())
        assert isinstance(found, Tensor)
        return found

    def fitted(self, keep: Tensor) -> Tensor:
        """The flat minimum with the examples weighted by ``keep``, by Newton's method from where the model stands."""
        flat, count = self.flat(), len(self.train[0])

        def objective(at: Tensor) -> Tensor:
            return (keep * self.losses(at, *self.train)).sum() / count + self.decay / 2 * at.square().sum()

        for _ in range(30):
            slope = torch.func.grad(objective)(flat)
            if float(slope.norm()) < 1e-13:
                break
            flat = flat - torch.linalg.solve(torch.func.hessian(objective)(flat), slope)
        return flat


def _to_minimum(solved: Solved) -> Solved:
    load_formulas()  # which warns of itself at first
    flat = solved.fitted(torch.ones(len(solved.train[0]), dtype=torch.float64))
    torch.nn.utils.vector_to_parameters(flat, solved.model.parameters())
    return solved


def ridge(seed: int, examples: int = 40, inputs: int = 4, outputs: int = 1, decay: float = 0.05) -> Solved:
    generator = torch.Generator().manual_seed(seed)
    x, query = (torch.randn(count, inputs, generator=generator, dtype=torch.float64) for count in (examples, 7))
    truth = torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
    noise = (torch.randn(count, outputs, generator=generator, dtype=torch.float64) for count in (examples, 7))
    y, asked = (part @ truth + 0.3 * next(noise) for part in (x, query))
    model = nn.Linear(inputs, outputs).double()
    return _to_minimum(Solved(model, (x, y), (query, asked), decay, nn.MSELoss(reduction="none")))


def softmax(seed: int, examples: int = 60, inputs: int = 4, classes: int = 3, decay: float = 0.02) -> Solved:
    generator = torch.Generator().manual_seed(seed)
    x, query = (torch.randn(count, inputs, generator=generator, dtype=torch.float64) for count in (examples, 7))
    truth = torch.randn(inputs, classes, generator=generator, dtype=torch.float64)
    y, asked = (
        torch.multinomial(functional.softmax(part @ truth, 1), 1, generator=generator).flatten() for part in (x, query)
    )
    model = nn.Linear(inputs, classes).double()
    return _to_minimum(Solved(model, (x, y), (query, asked), decay, nn.CrossEntropyLoss(reduction="none")))
