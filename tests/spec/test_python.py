"""Specs made of live objects: classes and functions are called, instances are used as they are."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from betty.ir.diagnostics import SpecError
from betty.spec.fields import Target
from betty.spec.frontend import compile_document, compile_source, resolve
from betty.spec.load import load
from betty.spec.models import DataSpec, EdgeSpec, OptimizerSpec, ParameterSpec, ProblemSpec, Spec
from betty.spec.signatures import LossSignature
from tests.spec.support import edited, report, write


class Net:
    def __init__(self, width: int = 3) -> None:
        self.width = width

    def named_parameters(self) -> list[Any]:
        return []

    def __call__(self, x: Any) -> Any:
        return x


class Optimizer:
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        self.params, self.lr = params, lr

    def step(self) -> None: ...


class Loader:
    def __iter__(self) -> Any:
        return iter([1])


def loss(batch: Any, net: Any) -> float:
    return 0.0


def spec(**fields: Any) -> Spec:
    given = {"module": Net(), "loss": loss, "data": [1], **fields}
    return Spec(name="live", problems={"net": ProblemSpec(**given)})


def problem(**fields: Any) -> Any:
    resolved = compile_source(spec(**fields)).resolved
    assert resolved is not None
    return resolved.problems["net"]


def test_instances_are_used_as_they_are() -> None:
    net, data, optimizer = Net(), Loader(), Optimizer([])
    made = problem(module=net, data=data, optimizer=optimizer)
    assert made.module() is net
    assert made.data() is data
    assert made.optimizer([1]) is optimizer
    assert made.loss is loss


def test_classes_and_functions_are_called() -> None:
    made = problem(
        module=Target(target=Net, args={"width": 5}),
        data=lambda: [1, 2],
        optimizer=OptimizerSpec(target=Optimizer, args={"lr": 0.5}),
        scheduler=lambda optimizer: ("schedule", optimizer),
    )
    assert made.module().width == 5
    assert made.data() == [1, 2]
    optimizer = made.optimizer(["p"])
    assert (optimizer.params, optimizer.lr) == (["p"], 0.5)
    assert made.scheduler(optimizer) == ("schedule", optimizer)


def test_partial_optimizers() -> None:
    graph = compile_source(spec(optimizer=functools.partial(Optimizer, lr=0.3))).graph
    assert graph.problem("net").optimizer == "Optimizer"
    assert problem(optimizer=functools.partial(Optimizer, lr=0.3)).optimizer([]).lr == 0.3


def test_mixed_text_and_objects() -> None:
    made = problem(data=DataSpec(target=[1, 2], batch_size=2), optimizer={"target": Optimizer, "lr": 2.0})
    assert made.optimizer([]).lr == 2.0
    assert made.data() == [1, 2]


def test_the_graph_of_live_objects() -> None:
    upper = ProblemSpec(parameters={"w": ParameterSpec()}, loss=Target(target=lambda net: 0.0))
    lower = ProblemSpec(module=Net(), loss=lambda upper, net: 0.0)  # type: ignore[arg-type]
    program = Spec(
        name="live", problems={"upper": upper, "net": lower}, edges=[EdgeSpec(upper="upper", lower="net", method="cg")]
    )
    graph, resolved = compile_document(load(program))
    assert graph.problem("net").reads == ("upper", "net")
    assert graph.edges[0].method is not None
    assert resolved is not None
    assert list(resolved.problems) == ["upper", "net"]
    assert resolve(load(program)).problems["net"].loss is resolved.problems["net"].loss


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"module": 3}, "found 3 (a whole number)"),
        ({"module": [1]}, "'list' is a list, which is no module"),
        ({"data": Net()}, "'Net' needs an argument 'x'"),
        ({"optimizer": Target(target=Net(), args={"lr": 1})}, "'Net' takes no argument 'lr'"),
        ({"loss": [1]}, "'list' is a list, which cannot be called"),
        ({"module": Target(target=Net, args={"depth": 1})}, "'Net' takes no argument 'depth'"),
    ],
)
def test_objects_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    source = {"name": "live", "problems": {"net": {"module": Net(), "loss": loss, "data": [1], **fields}}}
    with pytest.raises(SpecError) as error:
        compile_source(source)
    assert message in [one.message for one in error.value.diagnostics]


TORCH = """\
import torch


class Net(torch.nn.Linear):
    pass


class Loss(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, batch, net):
        return self.scale * net(batch).sum()
"""

TORCH_SPEC = """\
name: torch
problems:
  net:
    module: {target: program:Net, args: {in_features: 2, out_features: 1}}
    loss: {target: program:Loss, args: {scale: 2.0}}
    data: {target: torch.utils.data.TensorDataset}
    optimizer: {target: torch.optim.SGD, lr: 0.1, momentum: 0.9}
    scheduler: {target: torch.optim.lr_scheduler.CosineAnnealingLR, T_max: 10}
"""


def test_torch_by_name(tmp_path: Path) -> None:
    resolved = compile_source(write(tmp_path, TORCH_SPEC, TORCH)).resolved
    assert resolved is not None
    net = resolved.problems["net"]
    assert net.module is not None
    assert net.optimizer is not None
    assert net.scheduler is not None
    module = net.module()
    optimizer = net.optimizer(module.parameters())
    assert net.scheduler(optimizer).T_max == 10
    assert optimizer.defaults["momentum"] == 0.9
    assert net.signature == LossSignature(batch=True, reads=("net",))
    assert net.loss.scale == 2.0  # type: ignore[attr-defined]


def test_options_of_torch_are_checked(tmp_path: Path) -> None:
    text = report(tmp_path, edited(("lr: 0.1", "rl: 0.1"), ("T_max: 10", "Tmax: 10"), text=TORCH_SPEC), TORCH)
    assert "problems.net.optimizer.rl: 'torch.optim.SGD' takes no argument 'rl'" in text
    assert "problems.net.scheduler.Tmax: 'torch.optim.lr_scheduler.CosineAnnealingLR' takes no argument 'Tmax'" in text
    assert "'torch.optim.lr_scheduler.CosineAnnealingLR' needs an argument 'T_max'" in text
