"""Programs in the style of the first Betty's examples run unchanged, and learn what they are to learn."""

from __future__ import annotations

import copy
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from betty.problems import ImplicitProblem
from betty.problems.problem import HOOKS
from tests.classes.programs import (
    bert_reweighting,
    darts_search,
    domain_adaptation,
    imaml,
    logistic_regression_hpo,
    meta_weight_net,
    own_loop,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("method", ["cg", "darts", "neumann"])
def test_logistic_regression_hpo(method: str) -> None:
    engine = logistic_regression_hpo.main(method=method, train_iters=1000)
    assert engine.inner.count == 1000 and engine.outer.count == 10
    assert engine.history[-1] < engine.history[0] - 0.05
    informative, noise = engine.outer.module.w.detach().tensor_split([logistic_regression_hpo.INFORMATIVE])
    assert informative.mean() < noise.mean(), "features that tell something are to decay less"


def test_meta_weight_net() -> None:
    engine = meta_weight_net.main(train_iters=200)
    classifier, reweight = engine.classifier, engine.reweight
    right, wrong = meta_weight_net.mean_weights(engine)
    assert right > 2 * wrong and engine.best_acc > 75
    assert classifier.count == reweight.count == 200
    # Once a step: not by the evaluations of the method, nor by the compiler's.
    assert classifier.seen == reweight.seen == 200 * meta_weight_net.BATCH
    assert classifier.graded == classifier.clamped == len(classifier.losses) == 200
    assert classifier.epochs == 200 // (meta_weight_net.TRAIN // meta_weight_net.BATCH) - 1
    assert all(one.abs().max() <= meta_weight_net.LIMIT for one in classifier.module.parameters())
    assert classifier.scheduler.get_last_lr() == pytest.approx([0.02])


@pytest.mark.parametrize(
    ("method", "form"), [("darts", "dict"), ("sama", "encoding"), ("darts", "tuple"), ("sama", "dict")]
)
def test_bert_reweighting(method: str, form: str) -> None:
    engine = bert_reweighting.build(method=method, form=form, train_iters=120)
    before, embedding = bert_reweighting.mean_weights(engine), engine.finetune.module.embedding.weight.clone()
    engine.run()
    right, wrong = bert_reweighting.mean_weights(engine)
    assert right - wrong > before[0] - before[1]
    assert engine.finetune.count == 120 and engine.reweight.count == 30
    optimizer = engine.finetune.optimizer
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    assert {int(state["step"]) for state in optimizer.state.values()} == {30}
    assert engine.finetune.scheduler.last_epoch == 30
    assert torch.equal(embedding, engine.finetune.module.embedding.weight), "it is not among the trained parameters"


def adapted_loss(engine: imaml.MetaEngine) -> float:
    """Mean loss on new tasks after five plain steps from the outer problem's parameters."""
    env, losses = imaml.SineEnv(seed=99), []
    for _ in range(20):
        env.step()
        net = copy.deepcopy(engine.outer.module)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            F.mse_loss(net(env.batch["train"][0]), env.batch["train"][1]).backward()
            optimizer.step()
        losses.append(F.mse_loss(net(env.batch["test"][0]), env.batch["test"][1]).item())
    return statistics.mean(losses)


@pytest.mark.parametrize("method", ["darts", "cg", "unrolled"])
def test_imaml(method: str) -> None:
    engine = imaml.build(method=method)
    before = adapted_loss(engine)
    engine.env.reset()
    engine.run()
    assert adapted_loss(engine) < before
    assert engine.env.drawn == engine.outer.count == len(engine.outer.history) == 240
    assert engine.inner.count == 240 * 5
    steps = {int(state["step"]) for state in engine.outer.optimizer.state.values()}
    assert steps == {240 // imaml.TASKS}, "one update for several tasks"


@pytest.mark.parametrize("method", ["darts", "cg", "neumann", "unrolled"])
@pytest.mark.parametrize("two_paths", [False, True])
@pytest.mark.parametrize("roll_back", [False, True])
def test_domain_adaptation(method: str, two_paths: bool, roll_back: bool) -> None:
    engine = domain_adaptation.main(method=method, two_paths=two_paths, roll_back=roll_back)
    assert [problem.count for problem in engine.problems] == [150, 150, 300]
    assert len(engine.reweight.paths) == 1 + two_paths
    related, other = domain_adaptation.mean_weights(engine)
    assert related > other + 0.05
    assert engine.validate()["loss"] < 0.35


@pytest.mark.parametrize("roll_back", [False, True])
def test_darts_search(roll_back: bool) -> None:
    engine = darts_search.main(roll_back=roll_back, train_iters=100)
    assert engine.validate()["acc"] > 85
    shares = F.softmax(engine.outer.module.alphas.detach(), dim=-1)
    assert shares[:, 2].max() > 0.5, "the operation that can bend is what the data needs"
    assert engine.classifier.scheduler.last_epoch == 100, "a look-ahead does not move the schedule"
    assert engine.classifier.count == 100


def test_own_loop(capsys: pytest.CaptureFixture[str]) -> None:
    engine = own_loop.main()
    lower, upper = engine.problems
    assert (lower.count, upper.count, engine.global_step) == (101, 20, 100)
    written = capsys.readouterr().out
    assert '[Problem "lower"] [Global Step 20] [Local Step 20] decay' in written
    decay = upper.module().detach()
    assert decay[0] > decay[-1], "the feature without weight is to decay most"


MEMBERS = re.findall(
    r"\w+",
    """
    name config cfg env device module optimizer scheduler scaler train_data_loader cur_batch children parents paths leaf
    count logger set_module set_optimizer set_scheduler set_train_data_loader state_dict load_state_dict is_rank_zero
    log check_ready step leaves problems global_step set_dependency train_step validation run
""",
)


def test_programs_use_every_hook_and_member() -> None:
    sources = "\n".join(path.read_text() for path in (Path(__file__).parent / "programs").glob("*.py"))
    assert not [hook for hook in HOOKS if not re.search(rf"def {hook}\(", sources)]
    used = {*re.findall(r"\.(\w+)", sources), *re.findall(r"(\w+)=", sources), *re.findall(r"def (\w+)", sources)}
    assert not [member for member in MEMBERS if member not in used]


def test_problems_can_be_connected_by_hand() -> None:
    """``add_child`` and ``add_parent``, as programs do that build their graph themselves."""

    class Plain(ImplicitProblem):
        def training_step(self, batch: Any) -> Any:
            return self.module(batch).sum()

    first, second = (Plain(name, module=nn.Linear(1, 1)) for name in ("first", "second"))
    first.add_parent(second)
    second.add_child(first)
    assert first.parents == [second] and second.children == [first]
    assert second.check_ready() is False and first.check_ready() is True
