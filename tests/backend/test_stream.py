"""Whatever a program calls its data becomes an endless stream of the same micro-batches."""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset, TensorDataset

from betty.backends.torch.errors import RunError
from betty.backends.torch.stream import Loading, Stream, to_device
from tests.support.programs import CPU

X = torch.arange(10.0)
Y = torch.arange(10)


class Rows(Dataset[Any]):
    """A map-style data set of dicts."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": X[index], "y": int(Y[index])}


class Flow(IterableDataset[Any]):
    """An iterable-style data set of floats."""

    def __iter__(self) -> Iterator[float]:
        return iter(X.tolist())


class SizedFlow(Flow):
    """Iterable-style data may know its length and is none the more indexable for it."""

    def __len__(self) -> int:
        return len(X)


def stream(data: Any, dtype: torch.dtype | None = None, **loading: Any) -> Stream:
    return Stream("low", lambda: data, Loading(**loading), CPU, dtype)


def take(source: Stream, count: int) -> list[Any]:
    return [source.next() for _ in range(count)]


def values(batch: Any) -> list[float]:
    """The x of a batch of whatever form."""
    if isinstance(batch, dict):
        batch = batch["x"]
    elif isinstance(batch, list):
        batch = batch[0]
    found: list[float] = batch.tolist()
    return found


KINDS: dict[str, Callable[[], Any]] = {
    "map-style": Rows,
    "tensors": lambda: TensorDataset(X, Y),
    "subset": lambda: Subset(TensorDataset(X, Y), range(10)),
    "list of examples": lambda: list(zip(X, Y, strict=True)),
}
sized = pytest.mark.parametrize("kind", sorted(KINDS))


@sized
def test_an_epoch_holds_every_example_once(kind: str) -> None:
    source = stream(KINDS[kind](), batch_size=4)
    for _ in range(3):
        epoch = [value for batch in take(source, 3) for value in values(batch)]
        assert sorted(epoch) == X.tolist()
    assert source.epoch == 2


@sized
def test_the_order_is_that_of_the_seed_and_new_in_every_epoch(kind: str) -> None:
    def epochs(seed: int) -> list[list[float]]:
        source = stream(KINDS[kind](), batch_size=10, seed=seed)
        return [values(batch) for batch in take(source, 3)]

    first = epochs(seed=1)
    assert first == epochs(seed=1)
    assert first != epochs(seed=2)
    assert len({tuple(order) for order in first}) == 3


def test_the_fast_path_for_tensors_gives_the_same_batches_as_the_plain_one() -> None:
    fast = stream(TensorDataset(X, Y), batch_size=4, seed=7)
    plain = stream(KINDS["subset"](), batch_size=4, seed=7)
    for left, right in zip(take(fast, 7), take(plain, 7), strict=True):
        assert type(left) is type(right)
        assert all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


@sized
def test_without_shuffling_the_order_is_that_of_the_data(kind: str) -> None:
    source = stream(KINDS[kind](), batch_size=4, shuffle=False)
    assert [values(batch) for batch in take(source, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]


@sized
def test_a_smaller_last_batch_may_be_left_out(kind: str) -> None:
    source = stream(KINDS[kind](), batch_size=4, drop_last=True)
    assert [len(values(batch)) for batch in take(source, 5)] == [4] * 5
    assert source.epoch == 2


@pytest.mark.parametrize("kind", ["map-style", "tensors", "subset"])
def test_without_a_batch_size_the_whole_data_set_is_the_batch(kind: str) -> None:
    source = stream(KINDS[kind]())
    first, second = take(source, 2)
    assert values(first) == values(second) == X.tolist()
    assert source.epoch == 1


@pytest.mark.parametrize("kind", [Flow, SizedFlow])
def test_iterable_style_data_is_cut_in_its_own_order(kind: Callable[[], Any]) -> None:
    source = stream(kind(), batch_size=4)
    assert [values(batch) for batch in take(source, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]
    assert [values(batch) for batch in take(stream(kind(), batch_size=4, drop_last=True), 3)][2] == [0, 1, 2, 3]
    assert take(stream(kind()), 2) == [0.0, 1.0]


def test_a_list_of_batches_and_a_loader_are_taken_as_they_come() -> None:
    assert [values(batch) for batch in take(stream([X[:3], X[3:5]]), 3)] == [[0, 1, 2], [3, 4], [0, 1, 2]]
    loader = DataLoader(TensorDataset(X), batch_size=5)
    source = stream(loader, batch_size=2, shuffle=True)
    assert [values(batch) for batch in take(source, 2)] == [X[:5].tolist(), X[5:].tolist()]


def test_a_generator_is_asked_for_again_when_it_is_used_up() -> None:
    calls: list[int] = []

    def source() -> Iterator[Tensor]:
        calls.append(len(calls))
        return (X[index] + 10 * len(calls) for index in range(2))

    found = take(Stream("low", source, Loading(), CPU), 5)
    assert [float(value) for value in found] == [10, 11, 20, 21, 30]
    assert calls == [0, 1, 2]


def test_an_iterator_that_is_the_same_every_time_has_an_end() -> None:
    used = stream(iter([X[:2]]))
    used.next()
    with pytest.raises(RunError) as caught:
        used.next()
    assert "the data of 'low' has run dry: epoch 1 holds no batch, after 1 in the one before it" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "loading", "message"),
    [
        ([], {}, "the data of 'low' holds no batch"),
        ([], {"batch_size": 2}, "the data of 'low' is empty"),
        (TensorDataset(X[:0]), {}, "the data of 'low' is empty"),
        (TensorDataset(X), {"batch_size": 20, "drop_last": True}, "the data of 'low' holds no batch"),
        (3, {}, "the data of 'low' is int: expected a data set or an iterable"),
        (None, {"batch_size": 2}, "the data of 'low' is NoneType: expected a data set or an iterable"),
    ],
)
def test_data_without_a_batch_is_an_error_that_names_the_problem(data: Any, loading: Any, message: str) -> None:
    with pytest.raises(RunError) as caught:
        stream(data, **loading).next()
    assert str(caught.value) == f"RunError: {message}"


def test_peeking_takes_nothing() -> None:
    peeked, plain = (stream(TensorDataset(X), batch_size=4, seed=3) for _ in range(2))
    found = []
    for _ in range(7):
        ahead = peeked.peek()
        assert peeked.peek() is ahead
        found.append(peeked.next())
        assert found[-1] is ahead
    assert [values(batch) for batch in found] == [values(batch) for batch in take(plain, 7)]


@pytest.mark.parametrize("kind", [*sorted(KINDS), "iterable-style"])
@pytest.mark.parametrize("loading", [{"batch_size": 3}, {"batch_size": 3, "shuffle": False}, {}], ids=str)
def test_global_random_states_are_left_alone(kind: str, loading: dict[str, Any]) -> None:
    source = stream({**KINDS, "iterable-style": Flow}[kind](), **loading)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    take(source, 9)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]  # type: ignore[index]


def test_a_distributed_sampler_is_told_the_epoch() -> None:
    sampler: DistributedSampler[Any] = DistributedSampler(TensorDataset(X), num_replicas=2, rank=0, seed=1)
    source = stream(DataLoader(TensorDataset(X), batch_size=5, sampler=sampler))
    epochs = [values(batch) for batch in take(source, 3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert sampler.epoch == 2


Pair = namedtuple("Pair", ["x", "y"])


class Typed(NamedTuple):
    x: Tensor
    name: str


class Moving:
    """Knows by itself how to move, as the batches of tokenizers do."""

    def __init__(self, device: Any = None) -> None:
        self.device = device

    def to(self, device: torch.device) -> Moving:
        return Moving(device)


def test_containers_keep_their_type_and_other_values_stay() -> None:
    inner = {"pair": Pair(X, Y), "typed": Typed(X, "a"), "list": [X, (Y, None)], "text": "b", "number": 3}
    ordered: OrderedDict[str, Tensor] = OrderedDict(z=X, a=Y)
    moved = to_device([inner, ordered, Moving(), defaultdict(list, x=X)], CPU, torch.float64)
    assert isinstance(moved, list)
    found = moved[0]
    assert isinstance(found["pair"], Pair)
    assert isinstance(found["typed"], Typed)
    assert isinstance(found["list"][1], tuple)
    assert (found["typed"].name, found["text"], found["number"], found["list"][1][1]) == ("a", "b", 3, None)
    assert type(moved[1]) is OrderedDict
    assert list(moved[1]) == ["z", "a"]
    assert moved[2].device == CPU
    assert moved[3]["missing"] == []
    assert moved[3]["x"].dtype == torch.float64


def test_floating_tensors_take_the_dtype_wherever_they_are_and_others_do_not() -> None:
    ordered = OrderedDict(x=X)
    batch = {"x": X, "nested": [Pair(X.half(), Y), (X.bool(),)], "complex": X.to(torch.complex64), "ordered": ordered}
    found = to_device(batch, CPU, torch.float64)
    assert found["x"].dtype == found["nested"][0].x.dtype == found["ordered"]["x"].dtype == torch.float64
    assert found["nested"][0].y.dtype == torch.int64
    assert found["nested"][1][0].dtype == torch.bool
    assert found["complex"].dtype == torch.complex64
    assert ordered["x"].dtype == torch.float32
    assert to_device(X, CPU) is X
