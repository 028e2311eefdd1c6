"""Starts one command in several processes that find one another, as ``torchrun`` would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def started(
    arguments: Sequence[str], count: int, folder: Path | None = None, extra: Mapping[str, str] | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """Python with ``arguments`` in ``count`` processes, by rank, when all have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), **(extra or {})}
    running = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, **together, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    found = []
    for one in running:
        out, err = one.communicate(timeout=420)
        found.append(subprocess.CompletedProcess(one.args, one.returncode, out, err))
    return found
