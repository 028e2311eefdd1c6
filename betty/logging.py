"""Messages of a program, and its metrics in TensorBoard or Weights & Biases."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, TextIO

from betty.ir.diagnostics import BettyError, listing, nearest

NAME = "betty"
FORMAT = "[%(asctime)s] [%(levelname)s] %(message)s"
TIME = "%Y-%m-%d %H:%M:%S"
TYPES = ("none", "dummy", "tensorboard", "wandb")


class Console(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stdout`` is at the time, unless the program shows the same message by itself.

    Messages go on to the program's own handlers. Where one of these writes to the terminal already, this one is
    silent, so that nothing is shown twice.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # without a stream of its own, which would outlive a notebook's cell
        self.setFormatter(logging.Formatter(FORMAT, TIME))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout

    def emit(self, record: logging.LogRecord) -> None:
        if not _shown_elsewhere(record.levelno):
            super().emit(record)


def _shown_elsewhere(level: int) -> bool:
    terminal = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return any(
        getattr(handler, "stream", None) in terminal and level >= handler.level
        for handler in logging.getLogger().handlers
    )


def get_logger() -> logging.Logger:
    """The logger named ``betty``, with one handler that writes ``[time] [LEVEL] message`` to the standard output.

    The handler is installed by the first call, never by an import: whoever uses the library without an engine sees
    warnings as Python shows them.
    """
    found = logging.getLogger(NAME)
    if not any(isinstance(handler, Console) for handler in found.handlers):
        found.addHandler(Console())
        if found.level == logging.NOTSET:
            found.setLevel(logging.INFO)
    return found


class LoggerBase:
    """Messages to the console; metrics go nowhere."""

    silent: ClassVar[bool] = False
    """Whether metrics are swallowed at the moment, by all loggers: an evaluation that is no step writes none."""

    def __init__(self) -> None:
        self.logger = get_logger()

    def debug(self, message: object) -> None:
        self.logger.debug(message)

    def info(self, message: object) -> None:
        self.logger.info(message)

    def warning(self, message: object) -> None:
        self.logger.warning(message)

    def error(self, message: object) -> None:
        self.logger.error(message)

    def log(self, stats: Any, tag: str | None = None, step: int | None = None) -> None:
        """Write metrics.

        Args:
            stats: Numbers and tensors of one element, by name; nested dicts and lists become ``tag/key/sub``. Images
                (of shape ``[channels, height, width]``) and texts are written as such, anything else is left out.
            tag: Stands before the names, such as the name of a problem.
            step: Of the horizontal axis.
        """
        if not LoggerBase.silent:
            self._write(dict(flattened(stats, tag)), step)

    def _write(self, row: dict[str, Any], step: int | None) -> None:
        """Write numbers, texts and images by their names."""

    def close(self) -> None:
        """Write out what is still held back."""


class TensorBoardLogger(LoggerBase):
    """Metrics as event files of TensorBoard.

    Args:
        folder: Where the files go; ``runs/<date>_<machine>`` by default.

    Raises:
        BettyError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        super().__init__()
        self._folder = folder
        self._make = _needed(
            "torch.utils.tensorboard", "tensorboard", "pip install 'betty-mlo[tensorboard]'"
        ).SummaryWriter
        self._writer: Any = None

    @property
    def writer(self) -> Any:
        """The ``SummaryWriter``, made when it is first used."""
        if self._writer is None:
            self._writer = self._make(None if self._folder is None else str(self._folder))
        return self._writer

    def _write(self, row: dict[str, Any], step: int | None) -> None:
        for name, value in row.items():
            if isinstance(value, Real):
                self.writer.add_scalar(name, float(value), step)
            elif isinstance(value, str):
                self.writer.add_text(name, value, step)
            else:
                self.writer.add_image(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandBLogger(LoggerBase):
    """Metrics in the run of Weights & Biases that the program has begun, or in one of its own.

    Whether it is sent anywhere is up to the program: ``WANDB_MODE=offline`` keeps it on the machine.

    Args:
        folder: Where a run that is begun here keeps its files.

    Raises:
        BettyError: The package ``wandb`` is not installed.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        super().__init__()
        self._folder = folder
        self._wandb = _needed("wandb", "wandb", "pip install wandb")

    def _write(self, row: dict[str, Any], step: int | None) -> None:
        if not row:
            return
        # Not at construction: a program may call wandb.init after it has made its engine.
        if getattr(self._wandb, "run", None) is None:
            self._wandb.init(dir=None if self._folder is None else str(self._folder))
        shown = {
            name: value if isinstance(value, Real | str) else self._wandb.Image(value) for name, value in row.items()
        }
        self._wandb.log(shown, step=step)


def _needed(module: str, package: str, install: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise BettyError(f"logger_type={package!r} needs the package {package}, which is missing: {install}") from error


def flattened(stats: Any, tag: str | None = None) -> Iterator[tuple[str, Any]]:
    """Names and values of all that can be written: numbers, texts, images. Tensors of one element are numbers."""
    if isinstance(stats, Mapping | list | tuple):
        pairs = stats.items() if isinstance(stats, Mapping) else enumerate(stats)
        for key, one in pairs:
            yield from flattened(one, str(key) if tag is None else f"{tag}/{key}")
        return
    value = stats.detach() if hasattr(stats, "detach") else stats
    if getattr(value, "ndim", None) is not None and math.prod(value.shape) == 1 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Real | str) or _is_image(value):
        yield tag or "value", value


def _is_image(value: Any) -> bool:
    return getattr(value, "ndim", None) == 3 and value.shape[0] in {1, 3, 4}


def logger(logger_type: str = "none", folder: Path | str | None = None) -> LoggerBase:
    """The logger of a type: ``none`` (or ``dummy``), ``tensorboard``, ``wandb``.

    Raises:
        BettyError: There is no such type, or its package is not installed.
    """
    if logger_type == "tensorboard":
        return TensorBoardLogger(folder)
    if logger_type == "wandb":
        return WandBLogger(folder)
    if logger_type not in TYPES:
        near = nearest(str(logger_type), TYPES)
        raise BettyError(
            f"there is no logger_type {logger_type!r}: expected one of {listing(TYPES)}"
            + (f" (did you mean {near!r}?)" if near else "")
        )
    return LoggerBase()
