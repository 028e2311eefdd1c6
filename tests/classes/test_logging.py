"""Messages of a program and where its metrics go."""

from __future__ import annotations

import io
import logging
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from betty.ir.diagnostics import BettyError
from betty.logging import Console, LoggerBase, TensorBoardLogger, WandBLogger, flattened, get_logger, logger

METRICS = {
    "loss": torch.tensor(0.5, requires_grad=True),
    "nested": {"acc": 1, "parts": [2.0, torch.tensor([3.0])]},
    "good": True,
    "vector": torch.ones(3),
    "none": None,
}
SCALARS = {"lower/loss": 0.5, "lower/nested/acc": 1.0, "lower/nested/parts/0": 2.0, "lower/nested/parts/1": 3.0}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """A logger without our handler, at first and afterwards."""
    found = logging.getLogger("betty")
    handlers, level = found.handlers[:], found.level
    found.handlers, found.level = [one for one in handlers if not isinstance(one, Console)], logging.NOTSET
    yield
    found.handlers = handlers
    found.setLevel(level)


class FakeWandB(types.ModuleType):
    def __init__(self) -> None:
        super().__init__("wandb")
        self.run: object = None
        self.begun: list[Any] = []
        self.rows: list[tuple[dict[str, Any], Any]] = []

    def init(self, **options: Any) -> None:
        self.run = object()
        self.begun.append(options)

    def log(self, row: dict[str, Any], step: Any = None) -> None:
        self.rows.append((row, step))

    def Image(self, value: Any) -> tuple[str, Any]:  # noqa: N802 - wandb's own name
        return ("image", tuple(value.shape))


def test_messages_are_written_once_with_time_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    assert get_logger() is get_logger() is logging.getLogger("betty")
    get_logger().info("one step of %s", "lower")
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] \[INFO\] one step of lower\n", capsys.readouterr().out)
    assert sum(isinstance(one, Console) for one in get_logger().handlers) == 1


def test_the_output_is_that_of_the_moment() -> None:
    get_logger()
    before, sys.stdout = sys.stdout, io.StringIO()
    try:
        get_logger().warning("here")
        assert sys.stdout.getvalue().endswith("[WARNING] here\n")
    finally:
        sys.stdout = before


def test_a_program_that_shows_messages_itself_sees_them_once(capsys: pytest.CaptureFixture[str]) -> None:
    get_logger()
    own = logging.StreamHandler(sys.stdout)
    own.setFormatter(logging.Formatter("mine: %(message)s"))
    logging.getLogger().addHandler(own)
    try:
        get_logger().info("step")
        assert capsys.readouterr().out == "mine: step\n"
        own.setLevel(logging.ERROR)
        get_logger().info("step")
        assert capsys.readouterr().out.endswith("[INFO] step\n")
    finally:
        logging.getLogger().removeHandler(own)


def test_messages_reach_other_handlers_as_well(caplog: pytest.LogCaptureFixture) -> None:
    get_logger()
    logging.getLogger("betty").warning("the response is not finite")
    assert caplog.messages == ["the response is not finite"]


def test_a_level_that_the_program_has_chosen_stays() -> None:
    logging.getLogger("betty").setLevel(logging.ERROR)
    assert get_logger().level == logging.ERROR


@pytest.mark.parametrize("kind", ["none", "dummy"])
def test_no_metrics_but_messages(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    found = logger(kind)
    assert type(found) is LoggerBase
    found.log(METRICS, tag="lower", step=1)
    with caplog.at_level(logging.DEBUG, "betty"):
        for level in ("debug", "info", "warning", "error"):
            getattr(found, level)(f"a message of level {level}")
    assert [(one.levelname.lower(), one.getMessage().split()[-1]) for one in caplog.records] == [
        (level, level) for level in ("debug", "info", "warning", "error")
    ]


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(BettyError, match=r"'tensorbord'.*did you mean 'tensorboard'"):
        logger("tensorbord")


def test_what_is_written_and_under_which_names() -> None:
    assert dict(flattened(METRICS, "lower")) == {**SCALARS, "lower/good": True}
    assert list(flattened(torch.tensor(2), None)) == [("value", 2)]
    pictures = {"picture": torch.rand(3, 4, 4), "matrix": torch.rand(4, 4), "features": torch.rand(8, 4, 4)}
    assert [name for name, _ in flattened(pictures)] == ["picture"]
    assert dict(flattened({"note": "text"}, "a")) == {"a/note": "text"}


def test_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = logger("tensorboard", tmp_path)
    assert isinstance(found, TensorBoardLogger)
    assert list(tmp_path.iterdir()) == []
    found.log({**METRICS, "picture": torch.rand(3, 4, 4), "note": "words"}, tag="lower", step=7)
    found.log({"loss": 0.25}, tag="lower", step=8)
    found.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {*SCALARS, "lower/good"}
    assert events.Tags()["images"] == ["lower/picture"]
    assert events.Tags()["tensors"] == ["lower/note/text_summary"]
    assert [(one.step, one.value) for one in events.Scalars("lower/loss")] == [(7, 0.5), (8, 0.25)]


def test_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    found = logger("wandb", "somewhere")
    assert isinstance(found, WandBLogger) and not fake.begun
    found.log({**METRICS, "picture": torch.rand(3, 4, 4), "note": "words"}, tag="lower", step=7)
    found.log({"nothing": None}, tag="lower", step=8)
    extra = {"lower/good": True, "lower/picture": ("image", (3, 4, 4)), "lower/note": "words"}
    assert fake.rows == [({**SCALARS, **extra}, 7)]
    assert fake.begun == [{"dir": "somewhere"}]


def test_a_run_of_wandb_that_the_program_has_begun_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    found = logger("wandb")
    fake.run = object()
    found.log({"loss": 1.0})
    assert fake.rows == [({"loss": 1.0}, None)] and not fake.begun


@pytest.mark.parametrize(
    ("kind", "module", "install"),
    [
        ("wandb", "wandb", "pip install wandb"),
        ("tensorboard", "torch.utils.tensorboard", r"pip install 'betty-mlo\[tensorboard\]'"),
    ],
)
def test_a_missing_package_names_its_install_line(
    kind: str, module: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BettyError, match=install):
        logger(kind)
