"""The state of several processes in one file, from which as many of them go on, or another number.

Parameters and optimisers are the same in all processes; what each has made of its own part of the batches is not. As
many processes get back what they had, bit for bit. Another number gets what is joined and cut again: the micro-batches
that responses look back on, the means of gradients that wait for their update, random states of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from betty.backends.torch.cutting import Part, cut, joined
from betty.backends.torch.objective import Sample
from betty.backends.torch.processes import Found, Processes
from betty.backends.torch.program import Program
from betty.backends.torch.random import RandomState, derived_seed
from betty.backends.torch.shards import Shard
from betty.backends.torch.trajectory.history import Micro, Record
from betty.backends.torch.trajectory.saving import Trajectory
from betty.backends.torch.trajectory.tangents import Column
from betty.backends.torch.tree import Tree, add, scale
from betty.backends.torch.zero import merged_last, merged_states

State = dict[str, Any]
SAME = ("module", "optimizer", "scheduler", "scaler", "memories", "last")
"""Parts of a problem that are written once: all processes have the same, buffers of modules excepted."""
OTHERS = "processes"


def gathered(found: State, program: Program) -> State:
    """The states of all processes as one, in the first of them; an empty one in the others, which have sent theirs.

    Args:
        found: This process's own.
        program: The one that it trains.
    """
    processes = program.processes
    if processes is None:
        return found
    states = processes.gathered(found if processes.rank == 0 else _own(found, program))
    if not states:
        return {}
    first, *others = states
    for name, problem in program.problems.items():
        if problem.shares is not None:
            optimizers = [state["problems"][name].pop("optimizer") for state in others]
            whole = first["problems"][name]
            whole["optimizer"] = merged_states([whole["optimizer"], *optimizers])
    return {**first, OTHERS: others}


def _own(found: State, program: Program) -> State:
    problems = {}
    for name, problem in program.problems.items():
        shared = ("optimizer", "last") if problem.shares is not None else ()
        parts = {key: value for key, value in found["problems"][name].items() if key not in SAME or key in shared}
        written = found["problems"][name]["module"]
        parts["module"] = {key: written[key] for key, _ in problem.module.named_buffers() if key in written}
        problems[name] = parts
    return {**found, "problems": problems}


def dealt(saved: State, program: Program, unpack: Callable[[Any], Any]) -> State:
    """This process's part of what was saved, from what the first one has read; problems' parts are unpacked.

    Args:
        saved: As it was read; that of other processes than the first is not looked at.
        program: The one that goes on.
        unpack: Makes records of plain data.
    """
    processes = program.processes
    count = 1 if processes is None else processes.count
    found: list[State] = []
    if processes is None or processes.rank == 0:
        first = {key: value for key, value in saved.items() if key != OTHERS}
        states = [first, *(_whole(one, first) for one in saved.get(OTHERS, ()))]
        found = [_unpacked(one, unpack) for one in states]
        if len(found) != count:
            found = _dealt_again(found, program, count)
    return found[0] if processes is None else processes.dealt(found)


def _whole(own: State, first: State) -> State:
    problems = {}
    for name, parts in own["problems"].items():
        shared = first["problems"][name]
        module = {**shared["module"], **parts["module"]}
        problems[name] = {**{key: shared[key] for key in SAME}, **parts, "module": module}
    return {**own, "problems": problems}


def _unpacked(state: State, unpack: Callable[[Any], Any]) -> State:
    problems = {name: {key: unpack(value) for key, value in parts.items()} for name, parts in state["problems"].items()}
    return {**state, "problems": problems, "random": unpack(state["random"]), "latest": unpack(state["latest"])}


def _dealt_again(states: Sequence[State], program: Program, count: int) -> list[State]:
    first = states[0]
    found = []
    for rank in range(count):
        problems = {}
        for name, problem in program.problems.items():
            # Data that is not cut is the same in all processes.
            part = Part(rank, count) if problem.stream is None or problem.stream.shards else None
            problems[name] = _parts([state["problems"][name] for state in states], part, name)
        random = states[rank]["random"] if rank < len(states) else _fresh(rank, first["iteration"])
        found.append({**first, "problems": problems, "random": random})
    return found


def _fresh(rank: int, iteration: int) -> RandomState:
    return RandomState.seeded(derived_seed(iteration, "process", str(rank)), torch.device("cpu"))


def _parts(states: Sequence[Mapping[str, Any]], part: Part | None, name: str) -> State:
    """What one process gets of a problem."""
    kept = [state["kept batches"] and state["kept batches"][0] for state in states]
    spared = [state["kept batches"] and state["kept batches"][1] for state in states]
    updates = [state["updates"] for state in states]
    lasts = [state["last"] for state in states]
    return {
        **states[0],
        "accumulated": _mean([state["accumulated"] for state in states]),
        "kept batches": None if None in kept else (_samples(kept, part, name), _samples(spared, part, name)),
        "updates": None if None in updates else _trajectory(updates, part, name),
        "last": None if None in lasts else merged_last(lasts),
    }


def _mean(trees: Sequence[Tree | None]) -> Tree | None:
    known = [tree for tree in trees if tree]
    if not known or any(isinstance(leaf, Shard) for tree in known for leaf in tree):
        return trees[0]  # what processes share is the mean already
    total = known[0]
    for tree in known[1:]:
        total = add(total, tree)
    return scale(1 / len(known), total)


def _samples(kept: Sequence[Sequence[Sample]], part: Part | None, name: str) -> list[Sample]:
    return [_sample(samples, part, name) for samples in zip(*kept, strict=True)]


def _sample(samples: Sequence[Sample], part: Part | None, name: str) -> Sample:
    """One micro-batch; masks of dropout are other ones where it is cut otherwise."""
    if part is None or samples[0].batch is None:
        return samples[0]
    whole = joined([sample.batch for sample in samples if sample.weight])
    if part.count == 1:
        return Sample(whole, samples[0].random)
    batch = cut(whole, part, 0, name)
    return Sample(batch, samples[0].random, part.uneven.pop(0, 1.0))


def _trajectory(states: Sequence[Trajectory], part: Part | None, name: str) -> Trajectory:
    first = states[0]
    opened = [state.open for state in states if state.open is not None]
    return replace(
        first,
        records=tuple(_record(records, part, name) for records in zip(*(one.records for one in states), strict=True)),
        open=_record(opened, part, name) if opened else None,
        tangents={target: (_columns(states, target), stale) for target, (_, stale) in first.tangents.items()},
    )


def _record(records: Sequence[Record], part: Part | None, name: str) -> Record:
    micros = [
        Micro(
            _sample([micro.sample for micro in micros], part, name),
            micros[0].readings,
            _mean([micro.gains for micro in micros]) or (),
        )
        for micros in zip(*(record.micros for record in records), strict=True)
    ]
    return replace(records[0], micros=micros)


def _columns(states: Sequence[Trajectory], target: str) -> tuple[Column, ...]:
    columns = zip(*(state.tangents[target][0] for state in states), strict=True)
    return tuple(replace(own[0], gradient=_mean([column.gradient for column in own])) for own in columns)


def alone(processes: Processes | None, find: Callable[[], Found], what: str) -> Found:
    """What ``find`` returns, called in the first process alone where there are several."""
    return find() if processes is None else processes.by_first(find, what)
