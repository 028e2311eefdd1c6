"""Steps of the executor: updates, clipping, accumulation, schedulers, and errors that say where they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau, StepLR

from betty.backends.torch.errors import RunError
from betty.backends.torch.executor import Executor
from betty.backends.torch.objective import ParameterModule, View
from betty.ir.methods import Method, preset
from betty.ir.plan import Plan, Step, Update
from tests.support.compare import assert_close, flat
from tests.support.optimizers import OPTIMIZER_CASES, OptimizerCase
from tests.support.programs import Built, MakeOptimizer, Part, assemble, edge
from tests.support.unrolling import Lower

D = torch.float64
CG, UNROLLED = preset("cg"), preset("unrolled", {"steps": 3})
both = pytest.mark.parametrize("method", [CG, UNROLLED], ids=["cg", "unrolled"])


def fit(batch: Tensor, low: View, up: View) -> dict[str, Tensor]:
    loss = (low(batch) - up.parameters["goal"]).square().mean()
    return {"loss": loss, "size": loss * 2}


def judge(low: View) -> Tensor:
    return (low(torch.ones(1, 3, dtype=D)) - 1).square().sum()


def program(
    method: Method,
    optimizer: MakeOptimizer = lambda p: SGD(p, lr=0.1),
    scheduler: Callable[[Optimizer], object] | None = None,
    accumulation: int = 1,
    clipping: float | None = None,
) -> Built:
    torch.manual_seed(0)
    low = Part(
        name="low",
        module=nn.Linear(3, 1, dtype=D),
        loss=fit,
        optimizer=optimizer,
        scheduler=scheduler,
        batches=torch.randn(12, 4, 3, dtype=D).unbind(),
        accumulation=accumulation,
        clipping=clipping,
    )
    up = Part(name="up", module=ParameterModule({"goal": torch.tensor(2.0, dtype=D)}), loss=judge)
    return assemble([low, up], [edge("up", "low", method)])


@both
def test_an_update_comes_with_every_last_micro_batch(method: Method) -> None:
    built = program(method, accumulation=3)
    low, before = built.program["low"], flat(built.program.parameters("low"))
    for count in range(1, 7):
        built.executor.step("low")
        assert (low.count, low.version) == (count, count // 3)
        after = flat(built.program.parameters("low"))
        assert torch.equal(after, before) is (count % 3 != 0)
        before = after


@both
def test_what_a_step_returns(method: Method) -> None:
    built = program(method)
    outcome = built.executor.step("low")
    assert outcome.problem == "low"
    assert not outcome.loss.requires_grad
    assert set(outcome.metrics) == {"size"}
    torch.testing.assert_close(outcome.metrics["size"], outcome.loss * 2)
    assert [part.shape for part in outcome.gradient] == [(1, 3), (1,)]
    assert all(leaf.grad is None for leaf in built.program.parameters("low"))


def test_the_statistics_of_a_solve_are_metrics_of_the_step() -> None:
    built = program(CG)
    built.executor.step("low")
    metrics = built.executor.step("up").metrics
    assert set(metrics) == {"low.iterations", "low.residual"}


@pytest.mark.parametrize("clipping", [0.05, 1e3])
@pytest.mark.parametrize("case", OPTIMIZER_CASES[::6], ids=str)
def test_steps_without_a_tape_are_those_of_a_plain_loop(case: OptimizerCase, clipping: float) -> None:
    toy = Lower(case, accumulation=2, clipping=clipping)
    twin = toy.twin()
    built = toy.live(steps=1)
    plain = Executor(without_tape(built.plan), built.program)
    for _ in range(6):
        plain.step("low")
    twin.torch_steps(3)
    assert_close(flat(list(toy.low.parameters())), flat(list(twin.low.parameters())), 1e-13)


def without_tape(plan: Plan) -> Plan:
    """The same plan with updates that are not differentiable."""

    def plain(step: Step) -> Step:
        items = tuple(replace(item, tape=0) if isinstance(item, Update) else item for item in step.instructions)
        return replace(step, instructions=items)

    return replace(plan, steps=tuple(map(plain, plan.steps)))


SCHEDULERS: dict[str, Callable[[Optimizer], object]] = {
    "step": lambda optimizer: StepLR(optimizer, step_size=2, gamma=0.5),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, T_max=5),
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda count: 1 / (count + 1)),
}


@both
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_schedulers_step_once_an_update_and_do_not_warn(name: str, accumulation: int, method: Method) -> None:
    built = program(method, scheduler=SCHEDULERS[name], accumulation=accumulation)
    reference = SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = SCHEDULERS[name](reference)
    for _ in range(4):
        built.follow(["low"] * accumulation)
        reference.step()
        schedule.step()  # type: ignore[attr-defined]
        assert built.optimizer("low").param_groups[0]["lr"] == reference.param_groups[0]["lr"]


def test_a_schedule_is_part_of_the_trajectory() -> None:
    """The rate of each kept update is that of its time, so replaying by torch gives the same parameters."""
    taped = program(UNROLLED, optimizer=lambda p: Adam(p, lr=0.1), scheduler=SCHEDULERS["step"])
    plain = program(CG, optimizer=lambda p: Adam(p, lr=0.1), scheduler=SCHEDULERS["step"])
    taped.follow(["low"] * 6)
    plain.follow(["low"] * 6)
    assert_close(flat(taped.program.parameters("low")), flat(plain.program.parameters("low")), 1e-12)


@both
def test_a_plateau_is_told_the_loss(method: Method) -> None:
    def plateau(optimizer: Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1e9, threshold_mode="abs")

    built = program(method, scheduler=plateau)
    rates = []
    for _ in range(4):
        built.executor.step("low")
        rates.append(built.optimizer("low").param_groups[0]["lr"])
    assert rates == [0.1, 0.05, 0.025, 0.0125]


def breaking(after: int) -> Callable[..., Tensor]:
    calls = []

    def loss(batch: Tensor, low: View, up: View) -> Tensor:
        calls.append(batch)
        if len(calls) > after:
            raise ZeroDivisionError("in the loss")
        return fit(batch, low, up)["loss"]

    return loss


def broken(after: int) -> Built:
    low = Part(name="low", module=nn.Linear(3, 1, dtype=D), loss=breaking(after), batches=[torch.ones(2, 3, dtype=D)])
    up = Part(name="up", module=ParameterModule({"goal": torch.tensor(2.0, dtype=D)}), loss=judge)
    return assemble([low, up], [edge("up", "low", CG)])


def test_an_error_in_a_loss_says_which_instruction_of_which_step() -> None:
    built = broken(after=2)
    built.follow(["low", "low"])
    with pytest.raises(ZeroDivisionError, match="in the loss") as caught:
        built.executor.step("low")
    assert caught.value.__notes__ == ["in instruction %1 (differentiate) of problem 'low', step 3"]


def test_an_error_in_a_response_names_the_problem_that_steps() -> None:
    built = broken(after=1)
    built.follow(["low"])
    with pytest.raises(ZeroDivisionError) as caught:
        built.executor.step("up")
    assert caught.value.__notes__ == ["in instruction %2 (respond) of problem 'up', step 1"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (CG, "'low' has not stepped yet: its response is that of its last step"),
        (UNROLLED, "'low' has made no update yet: there is no trajectory to differentiate"),
    ],
    ids=["cg", "unrolled"],
)
def test_an_upper_that_steps_before_its_lower_is_told_so(method: Method, message: str) -> None:
    with pytest.raises(RunError) as caught:
        program(method).executor.step("up")
    assert str(caught.value) == f"RunError: {message}"


def test_a_problem_without_an_optimizer_takes_no_update() -> None:
    low = Part(name="low", module=nn.Linear(3, 1, dtype=D), loss=fit, batches=[torch.ones(2, 3, dtype=D)])
    up = Part(name="up", module=ParameterModule({"goal": torch.tensor(2.0, dtype=D)}), loss=judge, optimizer=None)
    built = assemble([low, up], [edge("up", "low", CG)])
    built.follow(["low", "up", "up"])
    assert built.program["up"].version == 0
    assert float(built.program.parameters("up")[0].detach()) == 2.0


def test_every_instruction_can_be_measured_around() -> None:
    built = program(CG)
    seen: list[tuple[str, int, str]] = []

    def around(step: Step, index: int, run: Callable[[], None]) -> None:
        seen.append((step.problem, index, step.instructions[index].op))
        run()

    executor = Executor(built.plan, built.program, around)
    executor.step("low")
    executor.step("up")
    of_low = [("low", index, op) for index, op in enumerate(["draw", "differentiate", "update"])]
    assert seen == of_low + [
        ("up", index, op) for index, op in enumerate(["draw", "differentiate", "respond", "update"])
    ]


@both
def test_memories_hold_what_the_plan_keeps_and_no_more(method: Method) -> None:
    built = program(method, accumulation=2)
    built.follow(["low"] * 12)
    low = built.program["low"]
    assert (len(low.kept), len(low.tape)) == ((2, 0) if method is CG else (0, 3))
