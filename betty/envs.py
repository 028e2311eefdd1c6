"""What the problems of a class program share: an environment."""

from __future__ import annotations

from typing import Any

from betty.ir.diagnostics import BettyError


class Env:
    """An environment that all problems of a program reach as ``self.env``.

    It holds whatever several problems take from one place: a sampler of tasks, a simulator, a replay buffer. Its own
    :meth:`step` and :meth:`reset` are called by the program, from ``get_batch`` or ``training_step`` for instance,
    never by the engine. Once the engine is made, every problem is an attribute of it under the problem's name::

        class Tasks(Env):
            def step(self, index):
                return self.tasks[index]

            def parameters_of_learner(self):
                return self.learner.parameters()  # the problem named "learner"

        Engine(problems=[learner, meta], dependencies=..., env=Tasks())

    What an extra evaluation of a loss does to the attributes of an environment is taken back, see
    :class:`betty.classes.effects.Effects`.
    """

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Move on, and return what a batch is made of. To be defined by the program.

        Raises:
            BettyError: The program's class does not define it.
        """
        raise BettyError(
            f"{type(self).__name__}.step was called, but {type(self).__name__} does not define it: "
            f"write `def step(self, ...)` in class {type(self).__name__}"
        )

    def reset(self) -> Any:
        """Go back to the beginning. Does nothing unless the program defines it."""
