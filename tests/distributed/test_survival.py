"""What becomes of a run of several processes when one of them is asked to end, dies or computes what is not finite."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.support.forks import Started, command, start

pytestmark = pytest.mark.slow

PROGRAM = """\
import os, signal, time
from pathlib import Path

import torch
from torch.utils.data import Dataset

AT, FAULT, RANK = 14, os.environ.get("FAULT", ""), os.environ.get("RANK", "0")
AGAIN = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
stepped = 0  # updates of the lower problem, of this process


class Descent(torch.optim.SGD):
    def step(self, closure=None):
        global stepped
        super().step(closure)
        stepped += 1


class Examples(Dataset):
    def __init__(self, size=22):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(size, 3, generator=generator)
        self.y = self.x.sum(1, keepdim=True)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        if FAULT == "data" and RANK == "1" and stepped == AT - 1:
            raise ValueError(f"example {index} is broken")
        return self.x[index], self.y[index]


def fit(batch, net, weights):
    x, y = batch
    loss = ((net(x) - y) ** 2).mean() + (weights.parameters["decay"].exp() * net.weight**2).sum()
    if stepped == AT - 1 and RANK == "1" and not AGAIN:
        if FAULT == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if FAULT == "asked":
            Path("asked").touch()
            time.sleep(0.5)
        if FAULT == "nan" and not Path("nan").exists():
            Path("nan").touch()
            loss = loss * float("nan")
    return loss


def outer(batch, net):
    x, y = batch
    return ((net(x) - y) ** 2).mean()
"""
SPEC = """\
name: survival
problems:
  net:
    module: {target: torch.nn.Linear, args: {in_features: 3, out_features: 1}}
    loss: program:fit
    data: {target: program:Examples, batch_size: 6}
    optimizer: {target: program:Descent, lr: 0.05, momentum: 0.9}
    unroll: 2
  weights:
    parameters: {decay: {shape: [3], init: -2.0}}
    loss: program:outer
    data: {target: program:Examples, batch_size: 6}
    optimizer: {target: torch.optim.Adam, lr: 0.05}
edges:
  - {upper: weights, lower: net, flow: both, method: {name: cg, warm_start: true}}
engine: {iterations: 24, device: cpu, log: {every: 1}, timeout: 30, checkpoint: {every: 5, keep: 9}}
"""


def together(
    folder: Path, arguments: Sequence[str], count: int = 2, fault: str = ""
) -> list[subprocess.CompletedProcess[str]]:
    """What ``betty`` does with ``arguments`` in ``count`` processes, by rank."""
    return [one.finish(120) for one in begun(folder, arguments, count, fault)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def begun(folder: Path, arguments: Sequence[str], count: int, fault: str) -> list[Started]:
    both = {**os.environ, "FAULT": fault, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    found = []
    for rank in map(str, range(count)):
        environment = {**both, "WORLD_SIZE": str(count), "RANK": rank, "LOCAL_RANK": rank}
        found.append(start(command, ["betty", *arguments], folder=folder, environment=environment))
    return found


def write(folder: Path) -> None:
    (folder / "program.py").write_text(PROGRAM)
    (folder / "spec.yaml").write_text(SPEC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes to which nothing happens."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder)
    assert [one.returncode for one in together(folder, ["run", "spec.yaml", "--out", "whole"])] == [0, 0]
    return folder / "whole"


def learned(run: Path) -> torch.Tensor:
    parts = torch.load(run / "weights.pt", weights_only=True)
    return torch.cat([leaf.double().flatten() for _, part in sorted(parts.items()) for _, leaf in sorted(part.items())])


def saved(run: Path) -> list[int]:
    return sorted(int(path.stem) for path in (run / "checkpoints").glob("*.pt"))


def test_one_that_is_asked_to_end_ends_all_and_any_number_goes_on(folder: Path, whole: Path) -> None:
    running = begun(folder, ["run", "spec.yaml", "--out", "part"], 2, "asked")
    deadline = time.monotonic() + 60
    while not (folder / "asked").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running[1].process.pid is not None
    os.kill(running[1].process.pid, signal.SIGTERM)
    ended = [one.finish(60) for one in running]
    assert [one.returncode for one in ended] == [143, 143], ended
    assert "terminated" in ended[0].stdout
    assert "to go on: betty run --resume part" in ended[0].stdout
    at = saved(folder / "part")[-1]
    assert 14 <= at < 24
    for count in (1, 2, 3):
        shutil.copytree(folder / "part", folder / f"part{count}")
        ended = together(folder, ["run", "--resume", f"part{count}"], count)
        assert [one.returncode for one in ended] == [0] * count, ended
        difference = (learned(folder / f"part{count}") - learned(whole)).abs().max()
        assert difference == 0 if count == 2 else difference < 1e-6


def test_processes_that_torchrun_starts_again_go_on(folder: Path, whole: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    command = [*torchrun, f"--master-port={free_port()}", "-m", "betty", "run", "spec.yaml", "--out", "part"]
    environment = {**os.environ, "FAULT": "killed", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "the last checkpoint is part/checkpoints/00000010.pt" in ended.stderr
    assert torch.equal(learned(folder / "part"), learned(whole))


def test_one_that_dies_is_told_by_the_other(folder: Path) -> None:
    first, second = together(folder, ["run", "spec.yaml", "--out", "part"], fault="killed")
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 2
    assert "the processes have lost one another: one of them has ended" in first.stderr
    assert "to go on: betty run --resume part" in first.stderr
    assert "Traceback" not in first.stderr
    assert saved(folder / "part") == [5, 10]


def test_a_mistake_in_one_is_told_by_both(folder: Path) -> None:
    first, second = together(folder, ["run", "spec.yaml", "--out", "part"], fault="data")
    assert (first.returncode, second.returncode) == (2, 1)
    assert "is broken" in second.stderr
    assert "in loading the data of 'net'" in second.stderr
    assert "its own message says why" in first.stderr


def test_what_is_not_finite_in_one_stops_both(folder: Path) -> None:
    ended = together(folder, ["run", "spec.yaml", "--out", "part"], fault="nan")
    assert [one.returncode for one in ended] == [2, 2], ended
    assert "of 'net' is not finite" in ended[0].stderr
    assert "part/checkpoints/00000010.pt" in ended[0].stderr
    assert saved(folder / "part") == [5, 10]


@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_what_is_not_finite_in_one_is_passed_over_by_both(folder: Path, whole: Path, action: str) -> None:
    arguments = ["run", "spec.yaml", "--out", "part", "--set", f"engine.on_nonfinite={action}"]
    ended = together(folder, arguments, fault="nan")
    assert [one.returncode for one in ended] == [0, 0], ended
    found = learned(folder / "part")
    assert found.isfinite().all()
    assert 0 < (found - learned(whole)).abs().max() < 1
    assert saved(folder / "part")[-1] == 20
    # Both hold the same numbers: the means of what they then compute are those of one process on the joined batches.
    ended = together(folder, ["run", "--resume", "part"], 1)
    assert ended[0].returncode == 0, ended
