"""A progress bar on a terminal; a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from betty.observers.base import Quiet
from betty.result import number

MOST_METRICS = 3
"""Metrics beside the bar; the history has them all."""


class _Rate(ProgressColumn):
    """Iterations a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f} it/s" if speed and speed >= 10 else f"{speed:.2f} it/s" if speed else "")


class Bar(Quiet):
    """Rate, losses and the time left. Shows nothing where ``console`` is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._shown: dict[str, float] = {}

    def started(self, iteration: int, last: int) -> None:
        if not self._console.is_terminal and not self._console.is_jupyter:
            return
        self._progress = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(table_column=Column(min_width=2 * len(str(last)) + 1, no_wrap=True)),
            _Rate(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[metrics]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self._console,
            refresh_per_second=8,
        )
        self._progress.start()
        self._progress.add_task("", total=last, completed=iteration, metrics="")

    def iterated(self, iteration: int) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=iteration)

    def went_back(self, iteration: int) -> None:
        self.iterated(iteration)

    def recorded(self, iteration: int, row: Mapping[str, float]) -> None:
        # Losses and validation metrics first: solver statistics stay in the history.
        self._shown.update((key, value) for key, value in row.items() if _matters(key))
        if self._progress is not None:
            named = list(self._shown.items())[:MOST_METRICS]
            text = "  ".join(f"{name} {number(float(f'{value:.4g}'))}" for name, value in named)
            self._progress.update(self._progress.task_ids[0], metrics=text)

    def ended(self, iteration: int, reason: str) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class Lines(Quiet):
    """A line each time a validation is due, for logs of a batch system."""

    def __init__(self, console: Console) -> None:
        self._console, self._start = console, time.perf_counter()

    def recorded(self, iteration: int, row: Mapping[str, float]) -> None:
        if not any(key.startswith("validate.") for key in row) or self._console.is_terminal:
            return
        named = "  ".join(f"{key} {number(value)}" for key, value in row.items() if _matters(key))
        seconds = time.perf_counter() - self._start
        self._console.print(f"iteration {iteration}  {seconds:.1f} s  {named}", highlight=False, soft_wrap=True)


def _matters(name: str) -> bool:
    return name.endswith(".loss") or name.startswith("validate.")
