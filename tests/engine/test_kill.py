"""A run that is killed at any moment goes on as if it had never been: weights and metrics bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.engine.test_resume import PROGRAM, THREE, TWO
from tests.support.forks import Started, command, start

pytestmark = pytest.mark.slow

WARM = "{name: cg, iterations: 3, warm_start: true}"
SPECS = {"two levels": TWO, "three levels": THREE}
KILLS, A_RUN = {"two levels": 30, "three levels": 20}, 5
"""Kills in all, and how many of them a single run has to survive."""


def spec_in(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    text = text.replace("METHOD", WARM).replace("iterations: 24", "iterations: 18, checkpoint: {every: 2, keep: 2}")
    (folder / "spec.yaml").write_text(text)
    return folder / "spec.yaml"


def betty(folder: Path, *arguments: str) -> Started:
    return start(command, ["betty", *arguments], folder=folder)


def begin(folder: Path, out: str) -> Started:
    """The command by which a user begins the run, or goes on with it where there is something to go on with."""
    if (folder / out / "command.json").exists():
        return betty(folder, "run", "--resume", out)
    shutil.rmtree(folder / out, ignore_errors=True)  # killed before there was anything
    return betty(folder, "run", "spec.yaml", "--out", out)


def finish(started: Started) -> subprocess.CompletedProcess[str]:
    return started.finish(120)


def kill(started: Started) -> bool:
    """Whether the process was still there to be killed."""
    pid = started.process.pid
    assert pid is not None
    if started.process.exitcode is None:
        os.kill(pid, signal.SIGKILL)
    started.process.join(60)
    shutil.rmtree(started.output, ignore_errors=True)
    return started.process.exitcode == -signal.SIGKILL


def wait_for_a_checkpoint_to_be_written(folder: Path, started: Started) -> None:
    """Until there is a file on its way into the folder, or the run has ended."""
    while started.process.exitcode is None and not any(folder.glob(".*.pt.*")):
        time.sleep(0.0002)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("levels", SPECS)
def test_killed_at_any_moment(levels: str, tmp_path: Path) -> None:
    draw = random.Random(levels)
    folder = tmp_path / "program"
    spec_in(folder, SPECS[levels])
    assert finish(betty(folder, "--version")).returncode == 0  # the first start of all takes longer
    began = time.monotonic()
    whole = finish(betty(folder, "run", "spec.yaml", "--out", "whole"))
    length = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    expected = torch.load(folder / "whole/weights.pt", weights_only=True)
    killed = writing = number = 0
    while killed < KILLS[levels]:
        number += 1
        out, left = f"run{number}", min(A_RUN, KILLS[levels] - killed)
        while left:
            started = begin(folder, out)
            if left % 3 == 0:
                wait_for_a_checkpoint_to_be_written(folder / out / "checkpoints", started)
            else:
                time.sleep(draw.uniform(0, length))
            if not kill(started):
                break  # it was done before
            leftovers = list((folder / out / "checkpoints").glob(".*.pt.*"))
            writing += bool(leftovers)
            killed, left = killed + 1, left - 1
        if not (folder / out / "weights.pt").exists():
            ended = finish(begin(folder, out))
            assert ended.returncode == 0, ended.stderr
        found = torch.load(folder / out / "weights.pt", weights_only=True)
        for name, state in expected.items():
            assert all(torch.equal(value, found[name][key]) for key, value in state.items()), (out, name)
        assert (folder / out / "metrics.jsonl").read_text() == (folder / "whole/metrics.jsonl").read_text()
        assert not list((folder / out / "checkpoints").glob(".*")), "nothing half written is left"
        shutil.rmtree(folder / out)
    assert writing, "some were killed while a checkpoint was written"
