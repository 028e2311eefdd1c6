"""Specs made of live objects: classes and functions are called, instances are used as they are."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from betty.ir.diagnostics import SpecError
from betty.spec.fields import Target
from betty.spec.frontend import compile_document, compile_source, resolve
from betty.spec.load import load
from betty.spec.models import DataSpec, EdgeSpec, OptimizerSpec, ParameterSpec, ProblemSpec, Spec


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
    assert resolved == resolve(load(program)) or resolved is not None


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
