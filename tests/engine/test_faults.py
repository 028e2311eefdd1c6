"""What goes wrong in a run, what its user sees, and what is left: nothing is lost but the steps since the last save."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.support.forks import Started, command, start

pytestmark = pytest.mark.slow

PROGRAM = """\
import functools, os, resource, signal, time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

FAULT = os.environ.get("FAULT", "")
AT = 18
stepped = 0  # updates of the lower problem, of this process


class Descent(torch.optim.SGD):
    def step(self, closure=None):
        global stepped
        super().step(closure)
        stepped += 1


@functools.cache
def late():  # whether this process, which loads the data of one epoch, has begun after the moment of the fault
    return Path("steps").exists()


class Examples(Dataset):
    def __init__(self, size=40):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(size, 3, generator=generator)
        self.y = self.x.sum(1, keepdim=True)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        if stepped == AT - 1 and FAULT == "data raises":
            raise ValueError(f"example {index} is broken")
        if FAULT == "worker dies" and torch.utils.data.get_worker_info() and late():
            os.kill(os.getpid(), signal.SIGKILL)
        return self.x[index], self.y[index]


def dry(batches=AT):
    source = list(torch.utils.data.DataLoader(Examples(), batch_size=8))
    return iter([source[index % 5] for index in range(batches)])


def once():
    global stepped
    made, once.made = once.made, True
    return iter([]) if made else dry()


once.made = False


def fit(batch, net, weights):
    if stepped == AT - 1 and not Path("steps").exists():
        Path("steps").touch()
        time.sleep(float(os.environ.get("PAUSE", "0")))
        if FAULT == "loss raises":
            raise ValueError("no such loss")
        if FAULT == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
        if FAULT == "no more metrics":
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
        if FAULT == "checkpoints removed":
            import shutil

            time.sleep(0.2)  # what was being written has been written
            shutil.rmtree(os.environ["OUT"] + "/checkpoints")
    x, y = batch
    return ((net(x) - y) ** 2).mean() + (weights.parameters["decay"].exp() * net.weight**2).sum()


def outer(batch, net):
    x, y = batch
    return ((net(x) - y) ** 2).mean()
"""
SPEC = """\
name: faults
problems:
  net:
    module: {target: torch.nn.Linear, args: {in_features: 3, out_features: 1}}
    loss: program:fit
    data: DATA
    optimizer: {target: program:Descent, lr: 0.05, momentum: 0.9}
    unroll: 2
  weights:
    parameters: {decay: {shape: [3], init: -2.0}}
    loss: program:outer
    data: {target: program:Examples, batch_size: 8}
    optimizer: {target: torch.optim.Adam, lr: 0.05}
edges:
  - {upper: weights, lower: net, flow: both, method: cg}
engine: {iterations: 30, device: cpu, log: {every: 1}, checkpoint: {every: 5, keep: 3}}
"""
DATA = "{target: program:Examples, batch_size: 8}"
GO_ON = "the last checkpoint is part/checkpoints/{last}; to go on: betty run --resume part"
LEFT = ("00000005.pt", "00000010.pt", "00000015.pt")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One line of the matrix.

    Args:
        code: Exit code of the command.
        sees: What the user reads, in this order.
        left: Checkpoints that lie in the run's folder afterwards.
        signals: Sent when the loss of iteration 18 is being evaluated, ...
        pause: ... which then takes so many seconds more.
        data: Of the lower problem, where it is not a plain data set.
        mended: Whether the program is as it should be when the run goes on.
    """

    code: int
    sees: tuple[str, ...]
    left: tuple[str, ...] = LEFT
    signals: tuple[signal.Signals, ...] = ()
    pause: float = 0.0
    data: str = DATA
    mended: bool = True


TO_GO_ON = "to go on: betty run --resume part"
FAULTS = {
    "SIGTERM": Fault(
        code=143,
        sees=("terminated", TO_GO_ON),
        left=("00000010.pt", "00000015.pt", "00000018.pt"),
        signals=(signal.SIGTERM,),
        pause=0.3,
    ),
    "SIGINT": Fault(
        code=130,
        sees=("interrupted", TO_GO_ON),
        left=("00000010.pt", "00000015.pt", "00000018.pt"),
        signals=(signal.SIGINT,),
        pause=0.3,
    ),
    "a second signal": Fault(code=143, sees=(), signals=(signal.SIGTERM, signal.SIGTERM), pause=20.0),
    "loss raises": Fault(
        code=1,
        sees=("ValueError: no such loss", "program.py", "in instruction %1 (differentiate) of problem 'net'", GO_ON),
    ),
    "data raises": Fault(
        code=1, sees=("ValueError: example", "program.py", "in loading the data of 'net', batch 2 of epoch 3", GO_ON)
    ),
    "data runs dry": Fault(
        code=2,
        sees=("RunError: the data of 'net' has run dry: epoch 1 holds no batch, after 18", GO_ON),
        data="{target: program:once}",
        mended=False,
    ),
    "worker dies": Fault(
        code=2,
        sees=("RunError: a process that loads the data of 'net' has ended", GO_ON),
        data="{target: program:Examples, batch_size: 8, workers: 1}",
        left=("00000010.pt", "00000015.pt", "00000020.pt"),
    ),
    "full disk": Fault(
        code=2,
        sees=("RunError: cannot write the checkpoint part/checkpoints/00000020.pt: File too large", GO_ON),
    ),
    "no more metrics": Fault(code=2, sees=("RunError: cannot write part/metrics.jsonl: File too large", GO_ON)),
    "checkpoints removed": Fault(code=0, sees=("30 iterations",), left=("00000020.pt", "00000025.pt", "00000030.pt")),
}


def betty(folder: Path, *arguments: str, fault: str = "", pause: float = 0.0) -> Started:
    environment = {**os.environ, "FAULT": fault, "PAUSE": str(pause), "OUT": "part"}
    return start(command, ["betty", *arguments], folder=folder, environment=environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run to which nothing happens."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder, DATA)
    ended = betty(folder, "run", "spec.yaml", "--out", "whole").finish(120)
    assert ended.returncode == 0, ended.stderr
    return folder / "whole"


def write(folder: Path, data: str) -> None:
    (folder / "program.py").write_text(PROGRAM)
    (folder / "spec.yaml").write_text(SPEC.replace("DATA", data))
    (folder / "steps").unlink(missing_ok=True)


def once(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there() and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str, tmp_path: Path, whole: Path) -> None:
    fault = FAULTS[name]
    write(tmp_path, fault.data)
    started = betty(tmp_path, "run", "spec.yaml", "--out", "part", fault=name, pause=fault.pause)
    for number in fault.signals:
        once((tmp_path / "steps").exists)
        assert started.process.pid is not None
        os.kill(started.process.pid, number)
        time.sleep(0.05)
    ended = started.finish(120)
    text = ended.stdout + ended.stderr
    assert ended.returncode == fault.code, text
    assert all(line.format(last=fault.left[-1]) in text for line in fault.sees), text
    assert fault.code == 1 or "Traceback" not in text
    left = sorted(path.name for path in (tmp_path / "part/checkpoints").glob("*.pt"))
    assert tuple(left) == fault.left
    if fault.code and fault.mended:
        again = betty(tmp_path, "run", "--resume", "part").finish(120)
        assert again.returncode == 0, again.stderr
        assert_same(tmp_path / "part", whole)


def assert_same(one: Path, other: Path) -> None:
    mine, theirs = (torch.load(folder / "weights.pt", weights_only=True) for folder in (one, other))
    assert all(torch.equal(value, theirs[name][key]) for name in mine for key, value in mine[name].items())
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (one, other)
    ]
    assert rows[0] == rows[1]


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder that nobody can write to, root included")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    write(tmp_path, DATA)
    ended = betty(tmp_path, "run", "spec.yaml", "--out", "/sys/part").finish(120)
    assert ended.returncode == 2 and "RunError: cannot make the run's folder: " in ended.stderr
    assert ended.stderr.rstrip().endswith("/sys/part") and "Traceback" not in ended.stderr


def test_a_run_that_ends_before_its_first_checkpoint_begins_again(tmp_path: Path, whole: Path) -> None:
    write(tmp_path, DATA)
    started = betty(tmp_path, "run", "spec.yaml", "--out", "part", "--set", "engine.checkpoint.every=20", pause=20.0)
    once((tmp_path / "steps").exists)
    assert started.process.pid is not None
    os.kill(started.process.pid, signal.SIGKILL)
    started.process.join(60)
    shutil.rmtree(started.output)
    (tmp_path / "steps").unlink()
    again = betty(tmp_path, "run", "--resume", "part", "--set", "engine.checkpoint.every=5").finish(120)
    assert again.returncode == 0, again.stderr
    assert "part has no checkpoint: the run begins again at its first iteration" in again.stderr + again.stdout
    assert_same(tmp_path / "part", whole)
