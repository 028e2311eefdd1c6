"""What each process does with a program whose parameters they share: ``python -m tests.distributed.fsdp``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from betty import Engine
from betty.backends.torch.gathering import whole_state
from betty.backends.torch.objective import Sample, View
from betty.backends.torch.tree import axpy, detach

SHARED = (
    *("engine.strategy=fsdp", "problems.net.shard_parameters=true"),
    *("engine.checkpoint.every=2", "engine.checkpoint.keep=2", "engine.iterations=12"),
)


class StopError(Exception):
    """Raised in the middle of an evaluation."""


def after_exception(engine: Engine) -> bool:
    """Whether the parameters are as before, bit for bit, when a loss fails after its module has computed."""
    net = engine._program["net"]
    batch, loss = net.kept[-1].batch, net.objective.loss
    before, at_first = whole_state(net.module), engine.hypergradient("weights")

    def failing(**arguments: Any) -> Any:
        loss(**arguments)
        raise StopError

    net.objective.loss = failing
    point = axpy(0.5, detach(net.parameters), detach(net.parameters))
    try:
        net.objective.gradient(Sample(batch), {"net": point}, net.parameters)
    except StopError:
        pass
    finally:
        net.objective.loss = loss
    then, again = whole_state(net.module), engine.hypergradient("weights")
    same = all(torch.equal(before[key], then[key]) for key in before)
    return same and all(torch.equal(at_first[key], again[key]) for key in again)


def main(folder: Path, what: str) -> None:
    found: dict[str, Any] = {}
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    engine = Engine(folder / "spec.yaml", overrides=SHARED)
    if what == "save":
        engine.run(5)
        engine.save(folder / "saved.pt")
        engine.run(4, out=folder / "run")
    elif what == "resume":
        engine.resume(folder / f"run{os.environ.get('WORLD_SIZE', '1')}")
    else:
        engine.restore(folder / "saved.pt")
        engine.run(4)
    net = engine._program["net"]
    if several and what == "save":
        x = torch.ones(2, 3, dtype=torch.float64)
        view = View("net", net.module, fixed=True)
        found["method"] = torch.equal(view.doubled(x), 2 * view(x))
        found["parts"] = sum(leaf.to_local().numel() for leaf in net.parameters)  # type: ignore[attr-defined]
        found["after exception"] = after_exception(engine)
    states = {name: whole_state(module) for name, module in engine.modules.items()}
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    torch.save(states, folder / f"{what}.{count}.{rank}.pt")
    (folder / f"{what}.{count}.{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
