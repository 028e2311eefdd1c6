"""Models that are compiled, or compute activations again, are valued as they are without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from betty.backends.torch.errors import RunError
from betty.valuation import Valuation


class Net(nn.Module):
    """Two layers, the first of which may be computed again in the backward pass."""

    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.first, self.last, self.again = nn.Sequential(nn.Linear(5, 8), nn.Tanh()), nn.Linear(8, 3), again

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = checkpoint(self.first, inputs, use_reentrant=False) if self.again else self.first(inputs)
        found: Tensor = self.last(hidden)
        return found


def scores(model: nn.Module, method: str, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    data, queries = (
        TensorDataset(
            torch.randn(count, 5, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (count,), generator=generator),
        )
        for count in (23, 4)
    )
    valuation = Valuation(model, nn.CrossEntropyLoss(), method=method, dtype="fp64", **options)
    return valuation.log(DataLoader(data, 5)).score(queries)


def net(*, again: bool = False) -> Net:
    torch.manual_seed(0)
    return Net(again=again).double()


@pytest.mark.parametrize("method", ["ekfac", "logra", "cg", "gauss_newton"])
@pytest.mark.parametrize("how", ["compiled", "compiled in place", "part compiled", "checkpointed"])
def test_wrapped_models_have_the_same_scores(how: str, method: str) -> None:
    model: Any = net(again=how == "checkpointed")
    if how == "compiled":
        model = torch.compile(model, backend="aot_eager")
    elif how == "compiled in place":
        model.compile(backend="aot_eager")
    elif how == "part compiled":
        model.first.compile(backend="aot_eager")
    if (how, method) == ("checkpointed", "cg"):
        with pytest.raises(RunError, match="computes activations again"):
            scores(model, method)
        return
    found = scores(model, method)
    expected = scores(net(), method)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9)
    assert float(expected.norm()) > 0
