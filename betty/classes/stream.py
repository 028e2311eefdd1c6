"""The batches of a class program: whatever ``get_batch`` of its problems gives."""

from __future__ import annotations

import copy
from typing import Any

import torch

from betty.backends.torch.errors import RunError
from betty.backends.torch.stream import Loading, Stream, to_device
from betty.classes.effects import Effects
from betty.problems.batches import Loaders
from betty.problems.problem import Problem


class BatchStream(Stream):
    """Endless micro-batches from a problem's ``get_batch``, which a program may have defined itself.

    A batch that was looked at is given out next where looking used it up: where it comes from a loader, or where
    ``get_batch`` calls ``next``. Where it comes from elsewhere, such as an environment that moves on by itself,
    ``get_batch`` is asked again.

    Args:
        problem: Whose batches.
        device: Where tensors go.
        dtype: What floating-point tensors become, or ``None`` to leave them.
        effects: Undoes what looking at a batch does to the program's own objects.
    """

    def __init__(self, problem: Problem, device: torch.device, dtype: torch.dtype | None, effects: Effects) -> None:
        super().__init__(problem.name, list, Loading(), device, dtype)
        self._owner, self._effects = problem, effects
        self.own = type(problem).get_batch is not Problem.get_batch
        """Whether the program defines ``get_batch`` itself."""
        self._forked = False

    def next(self) -> Any:
        batch = self._peeked.pop() if self._peeked else self._get()
        self._owner.cur_batch = batch
        return batch

    def start_anew(self) -> None:
        """Drop a batch that was looked at: the data is other data now."""
        self._peeked.clear()

    def shuffle_anew(self, seed: int) -> None:
        if self._owner.__dict__["_loaders"] is not None:
            self._owner._data.shuffle_anew(seed)
            self._peeked.clear()

    def peek(self) -> Any:
        if self._uses_up:
            if not self._peeked:
                self._peeked.append(self._get())
            return self._peeked[-1]
        with self._effects.undone():
            return self._get()

    def state(self) -> Any:
        """Where the problem's loaders stand; other sources of batches move on by themselves."""
        loaders = self._owner.__dict__["_loaders"]
        ahead = 0 if self.own else len(self._peeked)
        return {
            "loaders": loaders.state(ahead) if loaders is not None else (),
            "peeked": list(self._peeked) if self.own else [],
        }

    def restore(self, state: Any) -> None:
        self._peeked[:] = state["peeked"]
        if self._owner.train_data_loader is not None and state["loaders"]:
            loaders = self._owner._data
            loaders.restore(state["loaders"])
            given = [one.ahead for one in loaders.iterators if one is not None and one.ahead]
            for batches in zip(*given, strict=True):
                batch = batches if isinstance(self._owner.train_data_loader, tuple) else batches[0]
                self._peeked.append(to_device(batch, self._device, self._dtype))

    def fork(self) -> Stream:
        twin = copy.copy(self._owner)
        twin.__dict__["_loaders"] = None
        if twin.train_data_loader is not None:
            given = twin.train_data_loader if isinstance(twin.train_data_loader, tuple) else (twin.train_data_loader,)
            loaders = tuple(_apart(self.problem, loader) for loader in given)
            twin.__dict__["_loaders"] = Loaders(self.problem, loaders, lambda: None)
        stream = BatchStream(twin, self._device, self._dtype, self._effects)
        stream._forked = True
        return stream

    @property
    def _uses_up(self) -> bool:
        code = getattr(type(self._owner).get_batch, "__code__", None)
        calls_next = code is not None and "next" in code.co_names
        return self._owner.train_data_loader is not None or calls_next

    def _get(self) -> Any:
        return to_device(self._asked() if self._forked else self._owner.get_batch(), self._device, self._dtype)

    def _asked(self) -> Any:
        """What ``get_batch`` gives to a copy of the program, which no ``train_step`` or environment leads."""
        try:
            return self._owner.get_batch()
        except Exception as error:
            raise RunError(
                f"get_batch of {self.problem!r} raises {type(error).__name__}: {error}\n"
                "  A check trains a copy of the program in the order of the plan, with data as the engine's last\n"
                "  step left it; where train_step or an environment provides the data, run the engine first."
            ) from error


def _apart(problem: str, loader: Any) -> Any:
    """A loader to draw from without drawing from the program's own: the same, unless it is used up once."""
    if not hasattr(loader, "__next__"):
        return loader
    try:
        return copy.deepcopy(loader)
    except TypeError as error:
        raise RunError(
            f"the data of {problem!r} is a live {type(loader).__name__} that cannot be copied ({error}); "
            "give a list, a DataLoader or another object that can be iterated again"
        ) from None
