"""What a program's methods do beside computing is taken back, and stays where nobody takes it back."""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import io
import logging
import pickle
import random
import sys
import time
import types
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from betty.classes.effects import Effects
from betty.logging import LoggerBase, get_logger

COUNT = 0
HISTORY: list[Any] = []
BASELINE = torch.zeros(3)
LOG = logging.getLogger("a program's own")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    globals()["COUNT"] = 0
    HISTORY.clear()
    BASELINE.zero_()
    yield
    globals().pop("ADDED", None)


class Meter:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0
        self.values: list[float] = []

    def update(self, value: float) -> None:
        self.total += value
        self.count += 1
        self.values.append(value)


class Slotted:
    __slots__ = ("empty", "number")

    def __init__(self) -> None:
        self.number = 1

    def fill(self) -> None:
        self.number, self.empty = 2, 3


class Counts(collections.Counter[str]):
    """A class of the program's own that derives from a container, with an attribute beside its items."""

    last = ""

    def note(self, key: str) -> None:
        self[key] += 1
        self.last = key


@dataclass
class Part:
    names: set[str] = field(default_factory=set)
    inner: Meter = field(default_factory=Meter)

    def note(self, name: str) -> None:
        self.names.add(name)
        self.inner.update(2.0)


def count_up() -> None:
    global COUNT  # noqa: PLW0603
    COUNT += 1


def bump_elsewhere() -> None:
    count_up()
    HISTORY.append(COUNT)


def recall(value: int, known: list[int] = []) -> int:  # noqa: B006 - what programs write
    known.append(value)
    return len(known)


class Lower:
    """In the place of a problem."""

    shared: list[int] = []  # noqa: RUF012 - what programs write
    calls = 0

    def __init__(self) -> None:
        self.n = 0
        self.history: list[Any] = [1, [2, 3], {"a": [4]}]
        self.table: dict[str, Any] = {"x": 1, "deep": {"y": [1, 2]}}
        self.seen = {1, 2}
        self.recent: collections.deque[int] = collections.deque([1, 2, 3], maxlen=3)
        self.ordered = collections.OrderedDict([("a", 1), ("b", 2)])
        self.grouped: collections.defaultdict[str, list[int]] = collections.defaultdict(list, a=[1])
        self.counter = collections.Counter("aab")
        self.counts = Counts("ab")
        self.meter, self.part, self.slotted = Meter(), Part(), Slotted()
        self.args = Namespace(step=0)
        self.pair = ([1], (Meter(), [2]))
        self.ema = torch.zeros(3)
        self.array = np.zeros(3)
        self.state = (torch.zeros(2), [torch.ones(1)])
        self.rng = random.Random(0)
        self.generator = torch.Generator().manual_seed(0)
        self.numpy_rng = np.random.default_rng(0)


def state(value: Any, at: int = 0) -> Any:
    """All that a value holds, as plain values that can be compared, the order of keys included."""
    if isinstance(value, torch.Tensor):
        return "tensor", value.tolist()
    if isinstance(value, np.ndarray):
        return "array", value.tolist()
    if isinstance(value, random.Random | np.random.Generator | torch.Generator):
        found = value.get_state().tolist() if isinstance(value, torch.Generator) else pickle.dumps(value)
        return type(value).__name__, found
    if isinstance(value, dict):
        own = state(vars(value)) if isinstance(value, Counts) else None
        return type(value).__name__, [(key, state(one)) for key, one in value.items()], own
    if isinstance(value, list | tuple | collections.deque):
        return type(value).__name__, [state(one) for one in value]
    if isinstance(value, set):
        return "set", sorted(value)
    if isinstance(value, Slotted):
        return "slotted", [(name, getattr(value, name, "none")) for name in Slotted.__slots__]
    return (type(value).__name__, state(vars(value))) if hasattr(value, "__dict__") else value


def world(lower: Lower) -> Any:
    """The state of everything that the mutations below can reach."""
    outside = [COUNT, HISTORY, BASELINE, Lower.shared, Lower.calls, recall.__defaults__, globals().get("ADDED")]
    return state([lower, *outside])


def identities(lower: Lower) -> dict[str, int]:
    return {name: id(value) for name, value in vars(lower).items()}


def add_a_global() -> None:
    global ADDED  # noqa: PLW0603
    ADDED = 1  # type: ignore[name-defined]


def rebind_baseline() -> None:
    global BASELINE  # noqa: PLW0603
    BASELINE = BASELINE + 1


def _set(name: str, value: Any) -> Callable[[Lower], Any]:
    return lambda lower: setattr(lower, name, value)


MUTATIONS: dict[str, Callable[[Lower], Any]] = {
    "attribute": lambda lower: setattr(lower, "n", lower.n + 1),
    "new attribute": _set("fresh", [1]),
    "deleted attribute": lambda lower: delattr(lower, "counts") if hasattr(lower, "counts") else None,
    "rebound list": _set("history", []),
    "rebound tensor": lambda lower: setattr(lower, "ema", lower.ema * 0.9 + 1.0),
    "append": lambda lower: lower.history.append(5),
    "pop": lambda lower: lower.history.pop() if lower.history else None,
    "set item": lambda lower: lower.history.__setitem__(0, "other") if lower.history else None,
    "nested list": lambda lower: lower.table["deep"]["y"].append(9) if "deep" in lower.table else None,
    "sort": lambda lower: lower.history.sort(key=str, reverse=True),
    "dict": lambda lower: lower.table.update(x=2, z=3),
    "del item": lambda lower: lower.table.pop("x", None),
    "order of keys": lambda lower: lower.ordered.move_to_end("a"),
    "set": lambda lower: lower.seen.symmetric_difference_update({1, 7}),
    "deque": lambda lower: lower.recent.append(8),
    "defaultdict": lambda lower: lower.grouped["new"].append(1),
    "counter": lambda lower: lower.counter.update("abc"),
    "container with attributes": lambda lower: lower.counts.note("z") if hasattr(lower, "counts") else None,
    "meter": lambda lower: lower.meter.update(1.5),
    "dataclass": lambda lower: lower.part.note("x"),
    "slots": lambda lower: lower.slotted.fill(),
    "namespace": lambda lower: setattr(lower.args, "step", lower.args.step + 1),
    "in a tuple": lambda lower: lower.pair[0].append(3),
    "in a tuple of a tuple": lambda lower: lower.pair[1][0].update(1.0),
    "tensor": lambda lower: lower.ema.mul_(0.9).add_(1.0),
    "data of a tensor": lambda lower: lower.ema.data.add_(1.0),
    "array": lambda lower: lower.array.__iadd__(1),
    "tensors in a tuple": lambda lower: (lower.state[0].add_(1), lower.state[1][0].mul_(2)),
    "tensor of the module": lambda lower: BASELINE.add_(1),
    "rebound global tensor": lambda lower: rebind_baseline(),
    "global": lambda lower: count_up(),
    "global of another function": lambda lower: bump_elsewhere(),
    "new global": lambda lower: add_a_global(),
    "default argument": lambda lower: recall(1),
    "list of the class": lambda lower: lower.shared.append(1),
    "attribute of the class": lambda lower: setattr(type(lower), "calls", lower.calls + 1),
    "random": lambda lower: (lower.rng.random(), lower.numpy_rng.random()),
    "torch's generator": lambda lower: torch.rand(1, generator=lower.generator),
}
names = st.lists(st.sampled_from(sorted(MUTATIONS)), min_size=1, max_size=8)


def effects_of(lower: Lower) -> Effects:
    return Effects(lower, functions=MUTATIONS.values())


@settings(deadline=None)
@given(names, st.booleans())
def test_mutations_are_taken_back(chosen: list[str], fails: bool) -> None:
    lower = Lower()
    effects = effects_of(lower)
    before, identity = world(lower), identities(lower)
    with contextlib.suppress(ZeroDivisionError), effects.undone():
        for name in chosen:
            MUTATIONS[name](lower)
        if fails:
            raise ZeroDivisionError
    assert world(lower) == before
    assert identities(lower) == identity


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_same_mutations_stay_without_a_block_and_are_seen_inside_of_one(name: str) -> None:
    lower = Lower()
    before = world(lower)
    shared, calls, defaults = list(Lower.shared), Lower.calls, recall.__defaults__
    assert defaults is not None
    known = list(defaults[0])
    with effects_of(lower).undone():
        MUTATIONS[name](lower)
        assert world(lower) != before
    assert world(lower) == before
    try:
        MUTATIONS[name](lower)
        assert world(lower) != before
    finally:
        Lower.shared[:], Lower.calls, defaults[0][:] = shared, calls, known


@settings(deadline=None, max_examples=30)
@given(names, names)
def test_a_block_starts_from_what_a_step_has_left(step: list[str], evaluation: list[str]) -> None:
    lower, twin = Lower(), Lower()
    effects = effects_of(lower)
    with effects.undone(), effects.undone():  # nested, and around everything that this test does to globals
        for name in evaluation:
            MUTATIONS[name](twin)
    outer = effects_of(lower)
    with outer.undone():
        for name in step:
            MUTATIONS[name](lower)
        between = world(lower)
        with effects.undone():
            for name in evaluation:
                MUTATIONS[name](lower)
        assert world(lower) == between


def test_a_nonlocal_counter_and_lists_of_a_closure() -> None:
    calls, seen = 0, [0]

    def bump() -> None:
        nonlocal calls
        calls += 1
        seen.append(calls)

    class Upper:
        def training_step(self) -> None:
            bump()

    upper = Upper()
    effects = Effects(upper)
    with effects.undone():
        upper.training_step()
        assert (calls, seen) == (1, [0, 1])
    assert (calls, seen) == (0, [0])
    upper.training_step()
    assert (calls, seen) == (1, [0, 1])


def test_functions_and_methods_that_are_attributes() -> None:
    meter, out = Meter(), [1]
    lower = types.SimpleNamespace(
        update=meter.update,
        add=out.append,
        part=functools.partial(recall, known=out),
        step=lambda: bump_elsewhere(),  # noqa: PLW0108 - a function of its own
    )
    with Effects(lower).undone():
        lower.update(1.0)
        lower.add(5)
        lower.part(6)
        lower.step()
        assert meter.count == 1 and out == [1, 5, 6] and HISTORY == [1]
    assert meter.count == 0 and out == [1] and HISTORY == []


def test_an_attribute_of_a_function_and_a_wrapped_function() -> None:
    def counted() -> None:
        counted.calls += 1  # type: ignore[attr-defined]

    counted.calls = 0  # type: ignore[attr-defined]

    class Upper:
        @torch.no_grad()
        def training_step(self) -> None:
            counted()
            count_up()

    upper = Upper()
    with Effects(upper).undone():
        upper.training_step()
        assert (counted.calls, COUNT) == (1, 1)  # type: ignore[attr-defined]
    assert (counted.calls, COUNT) == (0, 0)  # type: ignore[attr-defined]


def test_names_and_lists_of_the_programs_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    helper: Any = types.ModuleType("helper_of_a_program")
    code = (
        "total, steps, history = 0, 0, []\ndef note():\n    global total\n    total += 1\n    history.append(total)\n"
    )
    exec(code, vars(helper))
    monkeypatch.setitem(sys.modules, "helper_of_a_program", helper)

    class Upper:
        def training_step(self) -> None:
            import helper_of_a_program  # type: ignore[import-not-found]

            helper_of_a_program.note()
            helper_of_a_program.history.append("here")
            helper_of_a_program.steps += 10

    upper = Upper()
    with Effects(upper).undone():
        upper.training_step()
        assert (helper.total, helper.steps, helper.history) == (1, 10, [1, "here"])
    assert (helper.total, helper.steps, helper.history) == (0, 0, [])


def test_functions_that_turn_up_later_are_read_too() -> None:
    lower = Lower()
    effects = Effects(lower)
    with effects.undone():
        pass
    lower.late = lambda: [count_up]  # type: ignore[attr-defined]
    with effects.undone():
        lower.late()[0]()  # type: ignore[attr-defined]
        assert COUNT == 1
    assert COUNT == 0


def test_a_graph_that_is_kept_can_be_differentiated() -> None:
    class Upper:
        def __init__(self) -> None:
            self.ema = torch.ones(2)
            self.view = self.ema[0:1]

        def training_step(self, x: torch.Tensor) -> torch.Tensor:
            self.view.add_(1.0)
            return (self.ema * x).sum()

    upper, x = Upper(), torch.ones(2, requires_grad=True)
    tensor, version = upper.ema, upper.ema._version
    kept = (upper.ema * x * x).sum()
    with Effects(upper).undone():
        loss = upper.training_step(x)
    assert torch.autograd.grad(loss, x)[0].tolist() == [2.0, 1.0]  # written through a view
    assert torch.autograd.grad(kept, x)[0].tolist() == [2.0, 2.0]  # the tensor was not written at all
    assert upper.ema is tensor and tensor._version == version and upper.view._base is tensor


def test_what_requires_a_gradient_or_is_large_keeps_its_identity() -> None:
    lower = Lower()
    lower.weight = torch.zeros(2, requires_grad=True)  # type: ignore[attr-defined]
    lower.large = torch.zeros(1_000_001)  # type: ignore[attr-defined]
    small = lower.ema
    with effects_of(lower).undone():
        assert lower.weight is vars(lower)["weight"] and lower.weight.requires_grad  # type: ignore[attr-defined]
        assert lower.large.data_ptr() == copy.copy(lower).large.data_ptr()  # type: ignore[attr-defined]
        inside = (id(lower.weight), id(lower.large), id(lower.ema))  # type: ignore[attr-defined]
    assert inside[:2] == (id(lower.weight), id(lower.large)) and inside[2] != id(small)  # type: ignore[attr-defined]
    assert lower.ema is small


def test_tensors_are_not_copied_for_code_that_never_writes_in_place() -> None:
    class Reader:
        def __init__(self) -> None:
            self.data = torch.zeros(3)

        def training_step(self) -> torch.Tensor:
            return self.data.sum()

    reader = Reader()
    data = reader.data
    with Effects(reader).undone():
        assert reader.data is data


def test_objects_that_are_not_the_programs_are_left() -> None:
    class Upper:
        def __init__(self) -> None:
            self.module = nn.Linear(1, 1)
            self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.1)
            self.iterator = iter([1, 2, 3])

    upper = Upper()
    with Effects(upper).undone():
        upper.module.note = 1  # type: ignore[assignment]
        upper.optimizer.note = 1  # type: ignore[attr-defined]
        next(upper.iterator)
        upper.module = nn.Linear(1, 1)
    assert upper.module.note == upper.optimizer.note == 1 and next(upper.iterator) == 2  # type: ignore[attr-defined]


def test_a_batch_is_put_back_but_not_copied() -> None:
    lower: Any = Lower()
    lower.cur_batch = batch = [torch.zeros(2)]
    with effects_of(lower).undone():
        assert lower.cur_batch is batch
        batch.append(torch.ones(1))
        lower.cur_batch = None
    assert lower.cur_batch is batch and len(batch) == 2


def test_text_messages_metrics_and_breakpoints_are_swallowed(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = []
    stops: list[int] = []
    monkeypatch.setattr(LoggerBase, "_write", lambda self, row, step: rows.append(row))
    monkeypatch.setattr(sys, "breakpointhook", lambda *_: stops.append(1))
    metrics = LoggerBase()

    class Upper:
        def training_step(self) -> None:
            print("text")
            print("text", file=sys.stderr)
            sys.stdout.flush()
            sys.stdout.buffer.write(b"bytes")
            get_logger().warning("of betty")
            LOG.warning("of the program")
            logging.warning("of the root")
            metrics.log({"loss": 1.0})
            breakpoint()  # noqa: T100

    upper = Upper()
    streams = sys.stdout, sys.stderr
    with Effects(upper).undone():
        upper.training_step()
    assert tuple(capsys.readouterr()) == ("", "") and not caplog.records and not rows and not stops
    assert (sys.stdout, sys.stderr) == streams
    sys.stdout = io.TextIOWrapper(io.BytesIO())
    try:
        upper.training_step()
    finally:
        sys.stdout = streams[0]
    assert "text" in capsys.readouterr().err and len(caplog.records) == 3 and rows and stops


def test_output_is_back_after_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Effects(Lower()).undone():
        raise KeyboardInterrupt
    print("here")
    assert capsys.readouterr().out == "here\n" and not LoggerBase.silent and not logging.getLogger("betty").disabled


def test_long_lists_cost_a_shallow_copy_and_small_programs_little() -> None:
    def cost(lower: Any, copies: int) -> float:
        effects = Effects(lower)
        rounds = []
        for _ in range(copies):
            begun = time.perf_counter()
            with effects.undone():
                pass
            rounds.append(time.perf_counter() - begun)
        return min(rounds)

    class Small:
        def __init__(self, length: int) -> None:
            self.meter, self.losses = Meter(), [float(one) for one in range(length)]

        def training_step(self) -> None:
            count_up()

    assert cost(Small(10), 2000) < 100e-6  # about 15 microseconds where nothing else runs
    values = Small(200_000).losses
    begun = time.perf_counter()
    for _ in range(10):
        values[:] = list(values)
    copied = (time.perf_counter() - begun) / 10
    assert cost(Small(200_000), 20) < 10 * copied + 1e-3
