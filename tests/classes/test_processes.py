"""Several processes train one program of classes: gradients are averaged, and nobody is left behind in a validation."""

from __future__ import annotations

import os
import socket
import subprocess
import textwrap
import time
from pathlib import Path

import pytest
import torch

from tests.support import forks

pytestmark = pytest.mark.slow

PROGRAM = """
    import sys, time
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    from betty import Config, Engine, EngineConfig, ImplicitProblem

    mode, folder, processes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(16, 1, generator=generator, dtype=torch.float64)


    class Low(ImplicitProblem):
        def training_step(self, batch):
            inputs, targets = batch
            return ((self(inputs) - targets) ** 2).mean() + (self.high()[0] * self.module.weight ** 2).sum()


    class High(ImplicitProblem):
        def forward(self):
            return self.module.weight.exp()

        def training_step(self, batch):
            inputs, targets = batch
            return ((self.low(inputs) - targets) ** 2).mean()


    class Watched(Engine):
        def validation(self):
            if mode == "slow":
                time.sleep(4)
            if mode == "fails":
                raise ValueError("no such thing")
            return {"loss": float(self.global_step), "rank": self.problems[0]._runtime.rank}


    def loader():
        return DataLoader(TensorDataset(x, y), batch_size=16 // processes)


    torch.manual_seed(int(__import__("os").environ.get("RANK", 0)))  # each begins elsewhere, were it not for betty
    if processes == 1:
        torch.manual_seed(0)
    problems = []
    for kind, name in ((High, "high"), (Low, "low")):
        module = nn.Linear(3, 1).double()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        problems.append(kind(name, Config(type="darts", precision="fp64"), module, optimizer, None, loader()))
    high, low = problems
    config = EngineConfig(
        train_iters=6, valid_step=2, strategy="distributed", backend="gloo", timeout=3.0,
        early_stopping=mode == "stops", early_stopping_tolerance=1,
    )
    engine = Watched(
        problems=problems, dependencies={"u2l": {high: [low]} if mode != "plain" else {}, "l2u": {low: [high]}},
        config=config,
    )
    result = engine.run(out=folder)
    rank = low._runtime.rank
    row = {"rank": rank, "steps": engine.global_step, "saw": result.metrics["validate.rank"], "folder": result.folder}
    named = {f"{one.name}.{key}": value for one in problems for key, value in one.module.state_dict().items()}
    torch.save(named, f"{folder}.{rank}")
    print(row)
"""


def start(folder: Path, mode: str, count: int) -> list[subprocess.CompletedProcess[str]]:
    script = folder / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    environment = {**os.environ, **(together if count > 1 else {}), "OMP_NUM_THREADS": "1"}
    arguments = [str(script), mode, str(folder / f"run{count}"), str(count)]
    running = [
        forks.start(forks.script, arguments, folder=folder, environment={**environment, "RANK": str(rank)})
        for rank in range(count)
    ]
    return [one.finish(timeout=240) for one in running]


def weights(folder: Path, count: int, rank: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / f"run{count}.{rank}", weights_only=True)
    return found


@pytest.mark.filterwarnings("ignore")
def test_two_processes_train_as_one_on_the_joined_batches(tmp_path: Path) -> None:
    for count in (1, 2):
        for one in start(tmp_path, "plain", count):
            assert one.returncode == 0, one.stderr
    single, first, second = weights(tmp_path, 1, 0), weights(tmp_path, 2, 0), weights(tmp_path, 2, 1)
    for name, value in single.items():
        torch.testing.assert_close(first[name], value, rtol=1e-10, atol=1e-12)
        assert torch.equal(first[name], second[name])


def test_hypergradients_are_averaged(tmp_path: Path) -> None:
    found = start(tmp_path, "both", 2)
    assert [one.returncode for one in found] == [0, 0], found[0].stderr + found[1].stderr
    first, second = weights(tmp_path, 2, 0), weights(tmp_path, 2, 1)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert "'folder': None" in found[1].stdout and "run2" in found[0].stdout, "the first process alone writes"


def test_a_validation_slower_than_the_time_limit_hangs_nobody(tmp_path: Path) -> None:
    began = time.monotonic()
    found = start(tmp_path, "slow", 2)
    assert [one.returncode for one in found] == [0, 0], found[0].stderr + found[1].stderr
    assert time.monotonic() - began > 12, "three validations of four seconds, with a time limit of three"
    assert all("'saw': 0.0" in one.stdout for one in found), "the first process has validated, the others know"


def test_all_processes_stop_early_together(tmp_path: Path) -> None:
    found = start(tmp_path, "stops", 2)
    assert [one.returncode for one in found] == [0, 0], found[0].stderr + found[1].stderr
    assert all("'steps': 4" in one.stdout for one in found)


def test_a_validation_that_fails_ends_all_processes(tmp_path: Path) -> None:
    found = start(tmp_path, "fails", 2)
    assert all(one.returncode for one in found)
    assert "no such thing" in found[0].stderr
    assert "validation has failed in the first process: ValueError: no such thing" in found[1].stderr
