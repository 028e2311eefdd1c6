"""SIGINT and SIGTERM end a run after the iteration at hand; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""What a run that has been asked to end returns as its reason."""
CODES = {reason: 128 + number for number, reason in REASONS.items()}
"""Exit codes of commands by reason: 130 and 143, as a shell reports them."""


@dataclass(eq=False)
class Asked:
    """Whether someone has asked the process to end.

    Args:
        hard: Whether a second signal ends the process at once. Otherwise it is raised as ``KeyboardInterrupt``, which
            ends the run within its step; that is for notebooks, whose process goes on.
    """

    hard: bool = False
    reason: str = ""
    """``interrupted`` or ``terminated``; empty where nobody has asked."""
    _process: int = field(default_factory=os.getpid)

    def __call__(self) -> str:
        return self.reason

    def handler(self, before: Any) -> Callable[[int, FrameType | None], None]:
        """Takes a signal in; one that the program handles itself is passed on to ``before``."""

        def handle(number: int, frame: FrameType | None) -> None:
            if os.getpid() != self._process:
                return  # a process that loads data: its parent ends it
            if self.reason and self.hard:
                os._exit(128 + number)  # files take the place of others at once, so that none is left half written
            if self.reason:
                raise KeyboardInterrupt
            self.reason = REASONS[signal.Signals(number)]
            if callable(before) and before is not signal.default_int_handler:
                before(number, frame)

        return handle


_current: Asked | None = None


@contextmanager
def listening(*, hard: bool = False) -> Iterator[Asked]:
    """Take signals in meanwhile; inside another call, those that the outer one takes in.

    Python delivers signals to the main thread alone: in another one nothing is changed.
    """
    global _current  # noqa: PLW0603 - handlers are the process's
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or Asked()
        return
    asked = Asked(hard)
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in REASONS}
    try:
        _current = asked
        for number, known in before.items():
            if known is not signal.SIG_IGN:  # such as under nohup, or in the background of a shell script
                signal.signal(number, asked.handler(known))
        yield asked
    finally:
        _current = None
        for number, known in before.items():
            # None stands for a handler that is not Python's; it cannot be put back.
            if known is not None:
                signal.signal(number, known)
