"""Several processes log what one logs, each its part, and have its scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from betty.backends.torch.influence.store import Store
from tests.distributed.together import started
from tests.valuation import worker


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_are_one(count: int, tmp_path: Path) -> None:
    for ended in started(["-m", "tests.valuation.worker", str(tmp_path)], count):
        assert ended.returncode == 0, ended.stderr
    for name in worker.METHODS:
        one = worker.scores(tmp_path / "one", name)
        rank = 0.02 if name == "logra" else 1e-3  # rounded to bfloat16
        for place in range(count):
            several = torch.load(tmp_path / f"scores.{place}.pt", weights_only=True)
            assert several["refused"]
            for asked in (name, *([f"{name}, sharded"] if name in worker.SHARDED else [])):
                assert float((several[asked] - one).norm() / one.norm()) < rank, (asked, place)
        store = Store.open(tmp_path / "several" / name)
        assert torch.equal(store.ids, torch.arange(46))
        assert len(list((tmp_path / "several" / name).glob("part-*"))) == count
