"""The whole state of a run as one file, from which it goes on as if it had never been interrupted."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from betty.backends.torch import shards
from betty.backends.torch.adaptation import LastUpdate
from betty.backends.torch.ahead import Ahead
from betty.backends.torch.epochs import Position
from betty.backends.torch.errors import RunError
from betty.backends.torch.frame import Outcome
from betty.backends.torch.objective import Sample
from betty.backends.torch.packing import Codec, UnpackableError
from betty.backends.torch.program import LiveProblem, Program
from betty.backends.torch.random import RandomState
from betty.backends.torch.rejoining import alone, dealt, gathered
from betty.backends.torch.spreading import mesh_of, spread
from betty.backends.torch.tape import Reading
from betty.backends.torch.trainer import Trainer
from betty.backends.torch.trajectory import saving
from betty.backends.torch.trajectory.history import Micro, Snapshot
from betty.ir.diagnostics import listing

TITLE, FORMAT = "betty checkpoint", 3
RECORDS = (
    Ahead,
    LastUpdate,
    Micro,
    Outcome,
    Position,
    RandomState,
    Reading,
    Sample,
    Snapshot,
    shards.Shard,
    *saving.RECORDS,
)

SHARDS = "shards"
"""Key of the checksums of what lies beside the file."""
PAST = ("kept batches", "updates")
"""Parts that hold batches, which may be anything. Without them, responses after a resume wait for new updates."""

State = dict[str, Any]

log = logging.getLogger("betty")
_warned: set[tuple[str, str]] = set()


def state(trainer: Trainer, shared: shards.Tensors | None = None) -> State:
    """Everything that the run depends on, as copies in plain containers, for :func:`write`.

    Of several processes the first gets the state of all of them, the others an empty one. All have to ask.

    Args:
        trainer: Of the run.
        shared: Takes in copies of the tensors that processes share, for :func:`betty.backends.torch.shards.write`;
            where ``None`` they are gathered.

    Raises:
        RunError: A part of it cannot be written as plain data; it is named.
        NonfiniteError: A parameter is not finite.
    """
    program = trainer.executor.program
    codec = Codec(RECORDS, None if shared is None else shards.set_aside(shared))
    trainer.executor.watch.sound()
    found = {
        "plan": trainer.executor.plan.name,
        "iteration": trainer.iteration,
        "random": codec.pack(trainer.standing()),
        "patience": (trainer.patience.best, trainer.patience.waited) if trainer.patience else None,
        "validated": dict(trainer.validated),
        "best": trainer.best,
        "latest": codec.pack(trainer.latest),
        "recorder": trainer.executor.recorder.state(),
        "problems": {name: _problem_state(problem, codec) for name, problem in program.problems.items()},
    }
    return gathered(found, program)


def _problem_state(problem: LiveProblem, codec: Codec) -> State:
    found: State = {}
    for key, value in _parts(problem).items():
        try:
            found[key] = codec.pack(value)
        except UnpackableError as error:
            reason = (
                f"its {key} holds a {error.kind.__name__}, and a checkpoint takes tensors, arrays, numbers, text, "
                "lists, tuples, sets and dicts"
            )
            if key not in PAST:
                raise RunError(f"problem {problem.name!r} cannot be saved: {reason}") from None
            found[key] = None
            if (problem.name, key) not in _warned:
                _warned.add((problem.name, key))
                log.warning("a checkpoint leaves out the %s of %r: %s", key, problem.name, reason)
    return found


def _parts(problem: LiveProblem) -> State:
    module = problem.module
    written = module.state_dict()
    return {
        "module": dict(written),
        "buffers": {name: one for name, one in module.named_buffers() if name not in written},
        "modes": {name: part.training for name, part in module.named_modules()},
        "optimizer": problem.optimizer.state_dict() if problem.optimizer else None,
        "scheduler": problem.scheduler.state_dict() if problem.scheduler else None,
        "scaler": problem.scaler.state_dict() if problem.scaler is not None else None,
        "count": problem.count,
        "version": problem.version,
        "accumulated": problem.accumulated,
        "idle": problem.idle,
        "last": problem.last,
        "memories": problem.memories,
        "started_at": problem.started_at,
        "seen": problem.seen,
        "skipped": (problem.skipped, problem.skipped_in_a_row, problem.spoiled, problem.drawn),
        "ahead": problem.ahead,
        "data": problem.stream.state() if problem.stream is not None else None,
        "kept batches": (list(problem.kept), list(problem.spared)),
        "updates": saving.saved(problem),
    }


def write(found: State, path: Path | io.BytesIO) -> None:
    """Write a state into a file, or into memory, behind a line with a checksum of its content.

    Raises:
        OSError: There is no room for it, or it cannot be written for another reason.
    """
    content = io.BytesIO()
    torch.save(found, content)  # given a path, it would report a full disk as anything else than that
    head = f"{TITLE} {FORMAT} {hashlib.sha256(content.getbuffer()).hexdigest()}\n".encode()
    with nullcontext(path) if isinstance(path, io.BytesIO) else path.open("wb") as file:
        file.write(head)
        file.write(content.getbuffer())


def read(path: Path | io.BytesIO, device: torch.device) -> State:
    """The state in a file.

    Raises:
        RunError: The file is no checkpoint, or not as it was written.
    """
    try:
        written = path.getvalue() if isinstance(path, io.BytesIO) else path.read_bytes()
        head, _, raw = written.partition(b"\n")
    except FileNotFoundError:
        raise RunError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise RunError(f"cannot read the checkpoint {path}: {error.strerror or error}") from None
    found = re.fullmatch(rf"{TITLE} (\d+) ([0-9a-f]{{64}})", head.decode(errors="replace"))
    if found is None:
        raise RunError(f"{path} is no checkpoint: it does not begin as one")
    if int(found[1]) != FORMAT:
        raise RunError(f"{path} is a checkpoint of format {found[1]}; this version reads format {FORMAT}")
    if hashlib.sha256(raw).hexdigest() != found[2]:
        raise RunError(f"{path} is damaged: its content is not what was written (by its checksum)")
    state: State = torch.load(io.BytesIO(raw), map_location=device, weights_only=True)
    if isinstance(path, Path):
        shards.verify(path, state.get(SHARDS, {}))
    return state


def restore(trainer: Trainer, path: Path | io.BytesIO) -> None:
    """Put a saved state back; the run goes on from it as the one that was saved would have.

    Raises:
        RunError: The file cannot be read, is damaged, or belongs to other problems.
    """
    program = trainer.executor.program
    written = alone(program.processes, lambda: _fitting(path, program), "restoring")
    saved = dealt(written, program, Codec(RECORDS).unpack)
    if isinstance(path, Path):
        saved = shards.filled(saved, path, mesh_of(program))
    parts: dict[str, State] = saved["problems"]
    spread(parts, program, trainer.executor.plan)
    for name, found in parts.items():
        try:
            _restore_problem(program[name], found)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"{path} does not fit {name!r}: {str(error).strip().splitlines()[0]}") from None
    # When all modules are as they were: what is kept of updates notes where the buffers stand that a loss can reach.
    for name, found in parts.items():
        saving.restore(program[name], found["updates"], trainer.executor.recorder.into(name))
    trainer.executor.recorder.restore(saved["recorder"])
    trainer.iteration = int(saved["iteration"])
    trainer.validated, trainer.latest = dict(saved["validated"]), saved["latest"]
    trainer.best = saved["best"]
    if trainer.patience is not None and saved["patience"] is not None:
        trainer.patience.best, trainer.patience.waited = saved["patience"]
    trainer.resumed = True
    trainer.stand(saved["random"])


def _fitting(path: Path | io.BytesIO, program: Program) -> State:
    saved = read(path, program.device)
    problems = list(saved["problems"])
    if set(problems) != set(program.problems):
        raise RunError(f"{path} holds the problems {listing(problems)}, not {listing(list(program.problems))}")
    return saved


def _restore_problem(problem: LiveProblem, saved: State) -> None:
    _restore_module(problem.module, saved)
    for key in ("optimizer", "scheduler", "scaler"):
        part = getattr(problem, key)
        if part is not None and saved[key] is not None:
            part.load_state_dict(saved[key])
    problem.count, problem.version, problem.accumulated = saved["count"], saved["version"], saved["accumulated"]
    problem.idle, problem.last, problem.memories = saved["idle"], saved["last"], saved["memories"]
    if problem.shares is not None and problem.optimizer is not None:
        problem.shares.drop(problem.optimizer, problem.parameters)
        problem.last = problem.shares.own(problem.last) if problem.last is not None else None
    problem.started_at, problem.seen, problem.ahead = saved["started_at"], saved["seen"], saved["ahead"]
    problem.skipped, problem.skipped_in_a_row, problem.spoiled, problem.drawn = saved["skipped"]
    for queue, samples in zip((problem.kept, problem.spared), saved["kept batches"] or ((), ()), strict=True):
        queue.clear()
        queue.extend(samples)
    if problem.stream is not None and saved["data"] is not None:
        problem.stream.restore(saved["data"])


def _restore_module(module: nn.Module, saved: Mapping[str, Any]) -> None:
    module.load_state_dict(saved["module"])
    buffers: dict[str, Tensor] = dict(module.named_buffers())
    with torch.no_grad():
        for name, value in saved["buffers"].items():
            buffers[name].copy_(value)
    for name, part in module.named_modules():
        part.training = saved["modes"].get(name, part.training)
