"""Gradients are sent to other processes while the backward pass is at work on the rest."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from betty.backends.torch import reduction
from betty.backends.torch.processes import Processes
from betty.backends.torch.reduction import Reduction


class Noted(Processes):
    """Two processes that have found the same, and note what is sent when."""

    def begin_sum(self, flat: Tensor) -> Any:
        self.groups.setdefault("events", []).append(("sent", flat.numel()))
        flat.mul_(2)

    def end_sum(self, pending: Any) -> None:
        del pending


@pytest.mark.parametrize("bucket", [1, 300, 10**6])
def test_buckets_leave_as_soon_as_they_are_full(bucket: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "BUCKET", bucket)
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Linear(6, 6) for _ in range(5)))
    processes = Noted(rank=0, count=2, patient=None)
    events: list[tuple[str, int]] = processes.groups.setdefault("events", [])
    parameters = tuple(module.parameters())
    under_way = Reduction(processes, parameters, lambda _, part: part)
    with under_way.listening():
        passing = torch.randn(3, 6)
        for index, layer in enumerate(module):
            passing = layer(passing)
            passing.register_hook(lambda _, index=index: events.append(("passes", index)))
        gradient = torch.autograd.grad(passing.square().mean(), parameters)
    # From here on the gradient of the first layer is computed, which comes last.
    before = [event for event in events[: events.index(("passes", 0))] if event[0] == "sent"]
    buckets = {1: 10, 300: 3, 10**6: 1}[bucket]
    assert len([event for event in events if event[0] == "sent"]) == buckets
    assert len(before) >= buckets - (2 if bucket == 1 else 1)
    mean, idle = under_way.finish(gradient, set())
    assert not idle
    assert all(torch.equal(own, found) for own, found in zip(gradient, mean, strict=True))
    layers = [index for kind, index in events if kind == "passes"]
    assert all(later < earlier for earlier, later in pairwise(layers))
