"""The ``validation`` method of a class program, as a run calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from betty.backends.torch.errors import RunError
from betty.backends.torch.processes import Processes
from betty.backends.torch.program import Program
from betty.backends.torch.random import replaying
from betty.logging import LoggerBase, flattened
from betty.utils import log_from_loss_dict


class Validates(Protocol):
    """An engine with a ``validation`` method."""

    valid_step: int
    logger: LoggerBase

    @property
    def global_step(self) -> int: ...

    def do_validation(self) -> bool: ...

    def train(self) -> None: ...

    def eval(self) -> None: ...


class HookValidation:
    """Calls ``validation`` with all modules in evaluation mode, and logs what it returns.

    Modes, buffers' tensors and random states are put back afterwards: whether and how often a program validates
    changes nothing else of it. Whether gradients are recorded is the method's own affair (``@torch.no_grad()``).

    Of several processes the first validates. The others wait for it as long as it takes, and learn what it has found:
    all of them stop early, or none.
    """

    at_end = False

    def __init__(self, engine: Validates, processes: Processes | None = None) -> None:
        self._engine, self._processes = engine, processes
        self.found: Mapping[str, Any] = {}
        """What the method has returned last."""

    @property
    def every(self) -> int:
        together = self._processes is not None
        return self._engine.valid_step if together or self._engine.do_validation() else 0

    def measure(self, program: Program) -> dict[str, float]:
        """The numbers among what the method returns, by name.

        Raises:
            RunError: It returns neither a dict nor nothing, or has failed in the first process.
        """
        if self._processes is None:
            return self._measure(program)
        return self._processes.by_first(
            lambda: self._measure(program) if self._engine.do_validation() else {}, "validation"
        )

    def _measure(self, program: Program) -> dict[str, float]:
        engine: Any = self._engine
        modes = _modes(program)
        try:
            with replaying(None, program.device):
                engine.eval()
                found = engine.validation()
        finally:
            engine.train()
            for module, mode in modes.items():
                module.training = mode
        if found is not None and not isinstance(found, Mapping):
            raise RunError(f"validation returned {type(found).__name__}: expected a dict of numbers, or nothing")
        self.found = found or {}
        if self.found:
            engine.logger.info(f"[Validation] [Global Step {engine.global_step}] {log_from_loss_dict(self.found)}")
            engine.logger.log(self.found, tag="validation", step=engine.global_step)
        return {name: float(value) for name, value in flattened(self.found) if isinstance(value, int | float)}


def _modes(program: Program) -> dict[nn.Module, bool]:
    modules = (module for problem in program.problems.values() for module in problem.module.modules())
    return {module: module.training for module in modules}
