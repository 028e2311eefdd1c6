"""The engine of a program of classes: arguments, names, dependencies, validation, early stopping, interruption."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import betty
from betty import BettyError, Config, Engine, EngineConfig, Env, GraphError, ImplicitProblem, RunError
from tests.classes.two_ways import Logits, as_classes


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.ones(2))

    def forward(self) -> Tensor:
        return self.at


class Low(ImplicitProblem):
    def training_step(self, batch: Any) -> Tensor:
        return ((self() - self.high()) ** 2).sum()  # type: ignore[attr-defined]


class High(ImplicitProblem):
    def training_step(self, batch: Any) -> Tensor:
        return ((self.low() - 3.0) ** 2).sum()  # type: ignore[attr-defined]


def pair(low: type[ImplicitProblem] = Low, name: str = "high") -> list[ImplicitProblem]:
    problems: list[ImplicitProblem] = []
    for called, kind in ((name, High), ("low", low)):
        module = Line()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        problems.append(kind(called, Config(), module, optimizer, train_data_loader=[None]))
    return problems


def both(problems: list[ImplicitProblem]) -> dict[str, Any]:
    high, low = problems
    return {"u2l": {high: [low]}, "l2u": {low: [high]}}


def engine(kind: type[Engine] = Engine, **config: Any) -> Engine:
    problems = pair()
    config = {"train_iters": 6, "strategy": "cpu", **config}
    return kind(problems=problems, dependencies=both(problems), config=EngineConfig(**config))


def test_arguments_in_every_order_that_was_ever_in_use() -> None:
    for positional in (True, False):
        problems = pair()
        config = EngineConfig(train_iters=2)
        found = Engine(problems, config, both(problems)) if positional else Engine(config, problems, both(problems))
        assert found.problems == problems and found.config is config
        found.run()
        assert found.global_step == 2


def test_an_engine_runs_one_program() -> None:
    problems = pair()
    with pytest.raises(BettyError, match="an engine runs one program"):
        Engine()
    with pytest.raises(BettyError, match="an engine runs one program"):
        Engine("spec.yaml", problems=problems)
    with pytest.raises(BettyError, match="belong to programs of classes"):
        Engine("spec.yaml", env=Env())
    with pytest.raises(BettyError, match="belong to specs"):
        Engine(problems=problems, overrides=["engine.seed=1"])
    with pytest.raises(BettyError, match="a list of ImplicitProblem"):
        Engine(problems=[nn.Linear(1, 1)])  # type: ignore[list-item]
    with pytest.raises(BettyError, match="config is dict: expected an EngineConfig"):
        Engine(problems=problems, config={"train_iters": 3})  # type: ignore[arg-type]


def test_members_of_classes_are_not_there_for_a_spec(tmp_path: Path) -> None:
    from tests.classes.two_ways import as_spec

    found = as_spec("darts")
    for member in ("problems", "leaves", "dependencies", "env"):
        with pytest.raises(BettyError, match="this engine runs a spec"):
            getattr(found, member)
    found.train_step()
    found.train_step()
    assert found.global_step == found.iteration == 2
    with pytest.raises(BettyError, match="to_spec"):
        _ = as_classes("darts").spec


def test_every_problem_is_an_attribute_of_the_others_the_engine_and_the_environment() -> None:
    problems, env = pair(), Env()
    found = Engine(problems=problems, dependencies=both(problems), env=env)
    high, low = problems
    assert found.low is env.low is high.low is low  # type: ignore[attr-defined]
    assert found.high is env.high is low.high is high  # type: ignore[attr-defined]
    assert not hasattr(low, "low") and low.env is env is found.env
    assert found.dependencies == both(problems) and found.leaves == [low]
    assert low.parents == [high] and high.children == [low] and low.leaf and not high.leaf
    assert high.paths == [[high, low, high]] and low.paths == []
    assert low.device == high.device == found.device


@pytest.mark.parametrize(
    ("name", "holder"), [("config", "Engine"), ("run", "Engine"), ("reset", "Env"), ("optimizer", "'low'")]
)
def test_a_name_that_is_taken_is_refused_and_both_are_named(name: str, holder: str) -> None:
    problems = pair(name=name)
    with pytest.raises(BettyError) as caught:
        Engine(problems=problems, dependencies=both(problems), env=Env())
    assert f"would hide the attribute '{name}' of {holder}" in str(caught.value)
    assert f"name='{name}_problem'" in str(caught.value)


def test_two_problems_of_one_name_are_refused() -> None:
    with pytest.raises(BettyError, match="two problems are called 'low'"):
        Engine(problems=pair(name="low"))


@pytest.mark.parametrize(
    ("near", "hook"),
    [
        ("trainin_step", "training_step"),
        ("on_inner_loop_starts", "on_inner_loop_start"),
        ("grad_calback", "grad_callback"),
        ("cofnigure_optimizer", "configure_optimizer"),
        ("configure_sceduler", "configure_scheduler"),
    ],
)
def test_a_method_one_letter_off_a_hook_is_warned_of(near: str, hook: str) -> None:
    problems = pair(low=type("Odd", (Low,), {near: lambda self: None}))
    with pytest.warns(UserWarning, match=rf"Odd\.{near} is called by nothing: did you mean the hook '{hook}'\?"):
        Engine(problems=problems, dependencies=both(problems))


def test_near_hooks_of_engine_and_environment() -> None:
    problems = pair()
    odd = type("Odd", (Engine,), {"validaton": lambda self: None})
    with pytest.warns(UserWarning, match="did you mean the hook 'validation'"):
        odd(problems=problems, dependencies=both(problems))
    world = type("World", (Env,), {"steps": lambda self: None})
    with pytest.warns(UserWarning, match="did you mean the hook 'step'"):
        Engine(problems=problems, dependencies=both(problems), env=world())


def test_methods_of_other_names_are_not_warned_of() -> None:
    problems = pair(low=type("Fine", (Low,), {"helper": lambda self: None, "train_steps_done": 3}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Engine(problems=problems, dependencies=both(problems))


def test_wrong_dependencies_are_reported_together() -> None:
    problems = pair()
    high, low = problems
    other = pair()[0]
    with pytest.raises(GraphError) as caught:
        Engine(
            problems=problems, dependencies={"l2h": {}, "u2l": {high: [low, "lov"], other: [low]}, "l2u": {low: [low]}}
        )
    text = str(caught.value)
    assert "unknown key 'l2h'" in text and "try       l2u" in text
    assert "'lov' is no problem" in text and "try       low" in text
    assert "'high' is not among the problems of the engine" in text
    assert "'low' stands on both sides" in text
    assert "4 errors" in text


def test_a_cycle_of_dependencies_is_refused() -> None:
    problems = pair()
    high, low = problems
    with pytest.raises(GraphError, match="cycle"):
        Engine(problems=problems, dependencies={"u2l": {high: [low], low: [high]}, "l2u": {low: [high]}})


class Validated(Engine):
    values: list[float]
    modes: list[bool]

    def validation(self) -> dict[str, Any]:
        torch.rand(3)
        self.modes = [problem.module.training for problem in self.problems]
        return {"loss": torch.tensor(self.values[self.global_step // self.valid_step - 1]), "note": "text"}


def validated(values: list[float], **config: Any) -> Validated:
    found = engine(Validated, valid_step=2, **config)
    assert isinstance(found, Validated)
    found.values = values
    return found


def test_validation_is_recorded_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    found = validated([3.0, 2.0, 1.0], log_every=1)
    found.low.module.register_module("drop", nn.Dropout().eval())  # type: ignore[attr-defined]
    random = torch.get_rng_state()
    with caplog.at_level(logging.INFO, logger="betty"):
        result = found.run()
    assert result.history.column("validate.loss") == ([2, 4, 6], [3.0, 2.0, 1.0])
    assert found.modes == [False, False] and found.low.module.training  # type: ignore[attr-defined]
    assert torch.equal(random, torch.get_rng_state()), "the program itself has drawn nothing"
    assert "[Validation] [Global Step 4] loss: 2.0 || note: text" in caplog.text
    found.values = [0.0, 0.0, 0.25]
    assert found.validate() == {"loss": 0.25}


@pytest.mark.parametrize(("mode", "values"), [("min", [1.0, 2.0, 3.0]), ("max", [3.0, 2.0, 1.0])])
def test_early_stopping_ends_the_run(mode: str, values: list[float]) -> None:
    config = {"early_stopping": True, "early_stopping_mode": mode, "early_stopping_tolerance": 2}
    found = validated(values, **config, train_iters=100)
    result = found.run()
    assert result.reason == "stopped early" and found.global_step == 6
    assert found.early_stopping is not None and found.early_stopping.waited == 2
    better = validated(values[::-1], **config)
    assert better.run().reason == "finished"


def test_early_stopping_asks_for_what_it_watches() -> None:
    found = validated([1.0, 1.0, 1.0], early_stopping=True, early_stopping_metric="los")
    with pytest.raises(RunError, match=r"watches 'los', which validate does not return.*did you mean 'loss'"):
        found.run()
    with pytest.warns(UserWarning, match="defines no validation"):
        engine(early_stopping=True)


def test_interrupted_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, whole = as_classes("cg"), as_classes("cg")
    torch.manual_seed(0)
    steps = iter([None] * 4)
    plain = type(cut.classifier).training_step  # type: ignore[attr-defined]

    def interrupted(self: Any, batch: Any) -> Any:
        if next(steps, "end") == "end":
            raise KeyboardInterrupt
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(type(cut.classifier), "training_step", interrupted)  # type: ignore[attr-defined]
        result = cut.run()
    assert result.reason == "interrupted" and cut.hypergradient("weigher")["logit"].isfinite().all()
    assert cut.run(3).reason == "finished"
    whole.run(2)
    assert whole.run(2).reason == "finished"


def test_a_cell_that_runs_twice_trains_on() -> None:
    problems = pair()
    first = Engine(problems=problems, dependencies=both(problems), config=EngineConfig(train_iters=3))
    first.run()
    optimizer = problems[1].optimizer
    second = Engine(problems=problems, dependencies=both(problems), config=EngineConfig(train_iters=3))
    second.run()
    assert problems[1].optimizer is optimizer and second.global_step == 3 and problems[1].count == 3


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    problems = pair()
    problems[1].config.log_step = 2
    found = Validated(
        problems=problems,
        dependencies=both(problems),
        config=EngineConfig(train_iters=6, valid_step=2, logger_type="tensorboard"),
    )
    found.values = [3.0, 2.0, 1.0]
    found.run()
    found.logger.close()
    (folder,) = (tmp_path / "runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.value for event in events.Scalars("validation/loss")] == [3.0, 2.0, 1.0]
    assert [event.step for event in events.Scalars("low/loss")] == [2, 4, 6]


def test_state_dicts_hold_all_parts() -> None:
    found, other = as_classes("darts"), as_classes("darts")
    found.run(4)
    problem, twin = found.classifier, other.classifier  # type: ignore[attr-defined]
    state = problem.state_dict()
    assert set(state) == {"module", "optimizer", "scheduler"}
    twin.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), problem.parameters(), strict=True))
    assert twin.optimizer.state_dict()["param_groups"] == problem.optimizer.state_dict()["param_groups"]
    assert twin.scheduler.last_epoch == problem.scheduler.last_epoch


def test_public_names() -> None:
    from betty.configs import Config as OldConfig
    from betty.engine import Engine as OldEngine
    from betty.envs import Env as OldEnv
    from betty.problems import ImplicitProblem as OldProblem
    from betty.problems import IterativeProblem

    assert (betty.Config, betty.Engine, betty.Env) == (OldConfig, OldEngine, OldEnv)
    assert (betty.ImplicitProblem, betty.IterativeProblem) == (OldProblem, IterativeProblem)


def test_logits_is_a_module() -> None:
    """The upper of the shared program starts at weights of one half."""
    assert torch.equal(Logits()(torch.arange(3)), torch.full((3,), 0.5))
