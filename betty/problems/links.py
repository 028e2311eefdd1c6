"""What a problem knows of the engine that runs it: a narrow view, so that problems need not know the engine."""

from __future__ import annotations

from typing import Any, Protocol


class Runtime(Protocol):
    """The running program as one of its problems sees it."""

    @property
    def training(self) -> bool:
        """Whether steps pass on to the problems above."""

    @property
    def rank(self) -> int:
        """Which of the processes this is."""

    def count(self, name: str) -> int:
        """Micro-batches that a problem has drawn."""

    def ready(self, name: str) -> list[bool]:
        """For each lower, whether it has completed its unroll since the problem's last step."""

    def step(self, name: str, global_step: int | None) -> None:
        """A step of a problem, and those of the problems above it whose turn it then is."""

    def placed(self, batch: Any, name: str) -> Any:
        """A batch on the problem's device, in its precision."""

    def replaced(self, name: str, part: str) -> None:
        """A problem has been given another ``module``, ``optimizer``, ``scheduler`` or ``train_data_loader``."""

    def autocast(self, name: str) -> Any:
        """The context in which a problem's loss is evaluated."""

    def paths(self, problem: Any) -> list[list[Any]]:
        """Ways from a problem through its lowers back to itself."""
