"""Logging that is killed at any moment goes on, and the store is bit for bit that of an uninterrupted run."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from betty.backends.torch.influence.store import Store
from betty.valuation import Valuation
from tests.support.forks import Started, start

EXAMPLES, KILLS = 400, 20


def valuation(folder: str) -> Valuation:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    options: dict[str, Any] = {"method": "logra", "rank": 4, "init": "ekfac", "dtype": "bf16"}
    return Valuation(model, nn.CrossEntropyLoss(), store=folder, **options)


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(EXAMPLES, 6, generator=generator)
    return DataLoader(TensorDataset(inputs, torch.randint(0, 3, (EXAMPLES,), generator=generator)), batch_size=5)


def log() -> None:
    """The body of a child: log into the folder that its argument names, with small shards."""
    from betty.backends.torch.influence.store import manifest

    manifest.SHARD = 4000
    valuation(sys.argv[1]).log(loader())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def shards(folder: Path) -> list[Path]:
    return list(folder.glob("part-*/*.shard"))


def child(folder: Path) -> Started:
    return start(log, ["log", str(folder)], folder=folder.parent)


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    draw = random.Random(0)
    assert child(tmp_path / "first").finish(60).returncode == 0  # the first start of all takes longer
    began = time.monotonic()
    ended = child(tmp_path / "whole").finish(60)
    length = time.monotonic() - began
    assert ended.returncode == 0, ended.stderr
    expected, whole = content(tmp_path / "whole"), len(shards(tmp_path / "whole"))
    killed = during = number = 0
    while killed < KILLS:
        number += 1
        folder = tmp_path / f"run{number}"
        for _ in range(5):
            written = len(shards(folder))
            started, began, wanted = child(folder), time.monotonic(), written + draw.randrange(-3, 12)
            while started.process.exitcode is None and len(shards(folder)) < wanted:
                time.sleep(0.0005)
            if wanted <= written:
                time.sleep(draw.uniform(0, length))
            pid = started.process.pid
            assert pid is not None
            if started.process.exitcode is None:
                os.kill(pid, signal.SIGKILL)
            started.process.join(60)
            if started.process.exitcode != -signal.SIGKILL:
                length = min(length, time.monotonic() - began)  # the first may have waited for other work
                break
            killed += 1
            during += written < len(shards(folder)) < whole
        ended = child(folder).finish(60)
        assert ended.returncode == 0, ended.stderr
        left = {name: one for name, one in content(folder).items() if not Path(name).name.startswith(".")}
        assert left == expected
        store = Store.open(folder)
        store.verify()
        assert torch.equal(store.ids, torch.arange(EXAMPLES))
    assert during, "some were killed in the middle of logging"
