"""Several processes compute what one computes on the joined batches: hypergradients, and where training leads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest
import torch

from tests.distributed import worker
from tests.distributed.programs import META, METHODS, PROGRAM, THREE, TWO
from tests.distributed.together import started
from tests.distributed.worker import Case

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DOUBLE = ("engine.precision=fp64",)
# The difference of two gradients enlarges their rounding by one over their distance.
FAR = "{inverse: INVERSE, product: {name: finite_difference, epsilon: 0.3}}"
SINGLE = {
    "finite_difference": FAR.replace("INVERSE", "identity"),
    "sama": FAR.replace("INVERSE", "sama"),
    **{name: METHODS[name] for name in ("unrolled", "cg", "neumann", "nystrom")},
}
PLAIN = ("problems.net.optimizer={target: torch.optim.SGD, lr: 0.1, momentum: 0.9}",)
MICRO = ("problems.net.gradient_accumulation=2", "problems.weights.gradient_accumulation=2")
ZERO = ("engine.strategy=zero", "problems.net.gradient_clipping=0.5")

# Parameters of the uppers' modules are shared too where these are great, or where a program says so.
FSDP = ("engine.strategy=fsdp", "problems.net.shard_parameters=true", "problems.net.gradient_clipping=0.5")
BOTH = "problems.weights.shard_parameters=true"


def case(name: str, spec: str, method: str, upper: str, *overrides: str, after: int = 0) -> Case:
    return Case(name=name, spec=spec.replace("METHOD", method), upper=upper, overrides=overrides, after=after)


CASES = {
    one.name: one
    for one in (
        *(case(f"single-{name}", TWO, method, "weights", after=46) for name, method in SINGLE.items()),
        *(case(f"two-{name}", TWO, method, "weights", *DOUBLE) for name, method in METHODS.items()),
        *(
            case(f"three-{name}", THREE, METHODS[name], "rate", *DOUBLE, *PLAIN)
            for name in ("finite_difference", "sama+forward", "cg", "unrolled", "remat", "forward_mode")
        ),
        *(case(f"meta-{name}", META, METHODS[name], "meta", *DOUBLE) for name in ("unrolled", "remat")),
        *(
            case(f"micro-{name}", TWO, METHODS[name], "weights", *DOUBLE, *MICRO, after=9)
            for name in ("finite_difference", "cg", "unrolled")
        ),
        *(
            case(f"zero-{name}", TWO, METHODS[name], "weights", *DOUBLE, *ZERO, after=5)
            for name in ("sama+forward", "cg", "unrolled")
        ),
        *(
            case(f"fsdp-{name}", TWO, METHODS[name], "weights", *DOUBLE, *FSDP, after=5)
            for name in ("finite_difference", "sama", "penalty")
        ),
        case("fsdp-both", THREE, METHODS["finite_difference"], "rate", *DOUBLE, *FSDP, *MICRO, BOTH, after=9),
        case("compiled", TWO, METHODS["cg"], "weights", *DOUBLE, "engine.compile=aot_eager", after=5),
        case("local", TWO, SINGLE["sama"], "weights", "engine.adjoints=local"),
        case("whole", TWO, METHODS["cg"], "weights", *DOUBLE, "problems.net.data.shard=false", after=5),
        case("roll_back", TWO, METHODS["unrolled"], "weights", *DOUBLE, "engine.roll_back=true", after=5),
    )
}
FOUR = [
    name
    for name in CASES
    if name in ("three-cg", "zero-sama+forward", "fsdp-sama", "fsdp-both")
    or (name.startswith("single") and name not in ("single-neumann", "single-nystrom"))  # these exchange as cg does
]
Found = Mapping[tuple[str, int, int], dict[str, Any]]
"""By case, number of processes and rank."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("together")
    (folder / "program.py").write_text(PROGRAM)
    for name, one in CASES.items():
        (folder / f"{name}.yaml").write_text(one.spec.replace("OPTIMIZER", "Adam"))
    asked = {1: list(CASES), 2: list(CASES), 4: FOUR}
    for count, names in asked.items():
        (folder / f"cases.{count}.json").write_text(json.dumps([asdict(CASES[name]) for name in names]))
    for count in (2, 4):
        for ended in started(["-m", "tests.distributed.worker", str(folder)], count):
            assert ended.returncode == 0, ended.stderr
    worker.main(folder)
    return {
        (name, count, rank): torch.load(folder / f"{name}.{count}.{rank}.pt", weights_only=True)
        for count, names in asked.items()
        for name in names
        for rank in range(count)
    }


def distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """Relative to the first."""
    first, second = (torch.cat([part.double().reshape(-1) for part in tree.values()]) for tree in (one, other))
    return float((first - second).norm() / first.norm().clamp_min(1e-30))


SAME = [name for name in CASES if name != "local"]


@pytest.mark.parametrize(("name", "count"), [*((name, 2) for name in SAME), *((name, 4) for name in FOUR)])
def test_as_one_process_on_the_joined_batches(name: str, count: int, found: Found) -> None:
    one, several = found[name, 1, 0], [found[name, count, rank] for rank in range(count)]
    assert not [each["error"] for each in (one, *several) if "error" in each]
    double = DOUBLE[0] in CASES[name].overrides
    # Differences of gradients in double precision: rounding over epsilon.
    differs = any(part in name for part in ("difference", "penalty", "evolution", "sama"))
    limit, after = (1e-7 if differs else 1e-9, 1e-7) if double else (1e-5, 1e-4)
    for each in several:
        assert distance(one["hypergradient"], each["hypergradient"]) < limit
        assert all(distance(one["weights"][key], each["weights"][key]) < after for key in one["weights"])
        assert each["rows"] == several[0]["rows"]
    keys = {key for row in one["rows"] for key in row if key.endswith("loss") or key.startswith("validate")}
    for mine, theirs in zip(one["rows"], several[0]["rows"], strict=True):
        assert all(abs(mine[key] - theirs[key]) < 1e-4 * abs(mine[key]) + 1e-6 for key in keys if key in mine)


FEWER = ("cg", "compiled", "remat", "zero", "whole", "roll_back", "micro", "fsdp", "meta")
"""Cases in which a solve may end early, nothing of a trajectory is left to compute, or an update exchanges too."""


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("fsdp", "roll_back", "micro"))])
def test_the_plan_says_what_processes_exchange(name: str, found: Found) -> None:
    met, planned = found[name, 2, 0]["met"], found[name, 2, 0]["planned"]
    exactly = not any(part in name for part in FEWER)
    assert met == planned if exactly else all(one <= most for one, most in zip(met, planned, strict=True))
    assert found[name, 1, 0]["met"] == [0, 0]


def test_sama_as_in_its_paper_meets_once_with_the_size_of_the_upper(found: Found) -> None:
    parameters = sum(part.numel() for part in found["local", 2, 0]["weights"]["weights"].values())
    assert found["local", 2, 0]["met"] == [1, 4 * parameters]
    assert found["single-sama", 2, 0]["met"][0] == 2


@pytest.mark.parametrize("name", ["single-sama", "single-finite_difference"])
def test_a_hypergradient_is_sent_off_before_its_last_backward_pass_has_ended(name: str, found: Found) -> None:
    early = found[name, 2, 0]["early"]
    assert early
    assert all(sent == buckets for sent, buckets in early)
