"""Parameters that processes share: what each holds, what an exception leaves, and checkpoints in any number of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from betty import Engine, SpecError
from betty.backends.torch.sharding import blocks
from tests.distributed import fsdp
from tests.distributed.programs import METHODS, PROGRAM, TWO
from tests.distributed.together import started

SPEC = TWO.replace("OPTIMIZER", "Adam").replace("device: cpu,", "device: cpu, precision: fp64,")
SPEC = SPEC.replace("unroll: 3", "unroll: 3\n    gradient_accumulation: 2\n    gradient_clipping: 0.5")
# A method of a module beside forward; the name of one that every module has would not do.
TWICE = "        return self.layers(x)\n\n    def doubled(self, x):\n        return 2 * self.layers(x)\n"
States = dict[str, dict[str, torch.Tensor]]


def written(folder: Path, method: str) -> Path:
    (folder / "program.py").write_text(PROGRAM.replace("        return self.layers(x)\n", TWICE))
    (folder / "spec.yaml").write_text(SPEC.replace("METHOD", method))
    return folder


def equal(one: States, other: States, limit: float) -> bool:
    pairs = [(one[name][key], other[name][key]) for name in one for key in one[name]]
    return all(float((first - second).abs().max()) <= limit for first, second in pairs)


@pytest.mark.slow
def test_checkpoints_go_on_in_any_number_of_processes(tmp_path: Path) -> None:
    folder = written(tmp_path, METHODS["sama"])

    def ran(what: str, count: int) -> States:
        if count == 1:
            fsdp.main(folder, what)
        else:
            ended = started(["-m", "tests.distributed.fsdp", str(folder), what], count)
            assert not [one.stderr for one in ended if one.returncode]
        found: States = torch.load(folder / f"{what}.{count}.0.pt", weights_only=True)
        return found

    finished = ran("save", 2)
    assert equal(finished, torch.load(tmp_path / "run" / "weights.pt", weights_only=True), 0.0)
    found = [json.loads((folder / f"save.2.{rank}.json").read_text()) for rank in range(2)]
    assert sum(one["parts"] for one in found) == sum(part.numel() for part in finished["net"].values())
    assert all(one["method"] and one["after exception"] and one["parts"] for one in found)
    assert equal(finished, ran("restore", 2), 0.0)
    assert equal(finished, ran("restore", 1), 1e-10)
    # Each process has written its own part, and what has been replaced has been removed.
    names = ["00000006.pt", "00000006.shards", "00000008.pt", "00000008.shards"]
    assert sorted(path.name for path in (folder / "run/checkpoints").iterdir()) == names
    parts = sorted(path.name for path in (folder / "run/checkpoints/00000008.shards").iterdir())
    assert parts == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    for count in (1, 2):
        shutil.copytree(folder / "run", folder / f"run{count}")
    altered = folder / "run2/checkpoints/00000008.shards/__1_0.distcp"
    altered.write_bytes(altered.read_bytes()[:-1] + b"?")
    assert equal(ran("resume", 2), ran("resume", 1), 1e-10)
    left = sorted(path.name for path in (folder / "run2/checkpoints").glob("*.damaged"))
    assert left == ["00000008.pt.damaged"]


def test_blocks_are_members_of_lists_that_share_nothing() -> None:
    tied = nn.Module()
    layers = [nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanh()]
    tied.first, tied.layers = nn.Linear(4, 4), nn.ModuleList(layers)
    inner, outer = nn.Linear(4, 4), nn.Linear(4, 4)
    tied.last = nn.Sequential(nn.Sequential(inner), outer)
    layers[1].weight = tied.first.weight
    assert blocks(tied) == [layers[0], inner, outer]


SECOND = {
    "cg": "'cg + reverse' takes second derivatives of the loss of 'net'",
    "{inverse: cg, product: finite_difference}": "'cg + finite_difference' solves with the Hessian of 'net'",
    "unrolled": "'unrolled' goes back over the updates of 'net'",
    "{inverse: sama, product: forward}": "'sama + forward' takes second derivatives of the loss of 'net'",
}


@pytest.mark.parametrize("method", SECOND)
def test_methods_that_need_more_than_first_derivatives_are_refused(method: str, tmp_path: Path) -> None:
    folder = written(tmp_path, method)
    with pytest.raises(SpecError) as caught:
        Engine(folder / "spec.yaml", overrides=["engine.strategy=fsdp"])
    assert caught.value.diagnostics[0].message.startswith(SECOND[method])
    assert len(caught.value.diagnostics) == 1
    assert "finite_difference, sama, penalty" in caught.value.diagnostics[0].expected


def test_auto_chooses_among_first_order_methods_and_says_why(tmp_path: Path) -> None:
    folder = written(tmp_path, "auto")
    engine = Engine(folder / "spec.yaml", overrides=["engine.strategy=fsdp"])
    (edge,) = engine.graph.edges
    assert edge.method is not None
    assert edge.method.brief() == "sama + finite_difference"
    assert "fsdp takes methods of first derivatives alone" in edge.reason


def test_updates_that_read_others_and_look_aheads_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, "finite_difference")
    with pytest.raises(SpecError, match="look-aheads are not taken back"):
        Engine(folder / "spec.yaml", overrides=["engine.strategy=fsdp", "engine.roll_back=true"])


def test_only_modules_can_be_shared(tmp_path: Path) -> None:
    folder = written(tmp_path, "finite_difference")
    changes = ["problems.weights.module=null", "problems.weights.parameters={logit: {shape: [26]}}"]
    with pytest.raises(SpecError, match="it is modules that are spread over processes"):
        Engine(folder / "spec.yaml", overrides=[*changes, "problems.weights.shard_parameters=true"])
