"""Evaluations of a program's methods that leave its Python objects as they were."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from betty.classes.kinds import Kinds
from betty.classes.known import Known, Ownership
from betty.classes.snapshot import Snapshot
from betty.logging import NAME, LoggerBase

SKIPPED = frozenset({"cur_batch"})
"""Attributes of the roots that are put back, but not looked into: a batch is not copied at every evaluation."""


class Effects:
    """Undoes what the methods of a program do beside computing.

    A method of this library may evaluate a loss more often than the program steps; what a ``training_step`` counts,
    collects or prints is to happen once per step. So everything that is done inside of :meth:`undone` is taken back::

        effects = Effects(problem, env)
        with effects.undone():
            problem.training_step(batch)  # appends to self.losses, adds to a global counter, prints

    **Taken back** are, also after an exception and with all identities kept:

    - attributes of the roots that are assigned, added or deleted, and those of other objects of the program, such as
      an ``AverageMeter``, however far attributes and containers lead (instances with ``__slots__`` too);
    - contents of lists, dicts, sets, deques and what derives from them;
    - globals, closures (``nonlocal``), attributes of the program's classes and functions, and names of its modules,
      as far as code assigns them: the methods of the roots' classes, ``functions``, and all code that these name;
    - what is written into plain tensors and NumPy arrays, by way of copies that stand in for them. Copied are those of
      the objects and containers above, if any of the code writes in place at all, up to 1,000,000 elements and 256
      tensors in all; larger ones are left alone, and so is what requires a gradient;
    - states of generators (``random.Random``, ``torch.Generator``, ``numpy.random.Generator``) among these objects.

    **Swallowed** are text for ``sys.stdout`` and ``sys.stderr``, messages to the loggers ``betty`` and the root, and to
    every logger that the program's objects or code name, metrics for :mod:`betty.logging`, and calls of ``breakpoint``.

    **Which objects are the program's.** An instance is followed if its class is defined in a module of the program: in
    the top-level package of a root, in ``__main__`` or a notebook, or in any other module that is neither part of
    Python, PyTorch, NumPy or betty nor installed among packages. ``SimpleNamespace`` and its like are followed too.
    Never followed are modules, optimizers, schedulers, loaders, data sets, samplers, iterators, generator functions at
    work, exceptions, members of enumerations, classes as values, betty's own objects other than the roots, and
    objects of installed packages; containers are followed whatever holds them.

    **Not undone** is what leaves the program: files, the network, other processes and threads, calls of
    ``wandb.log`` or of a ``SummaryWriter``; items that are drawn from an iterator; attributes of modules and of
    foreign objects; names bound by way of ``globals()``, ``exec`` or ``setattr`` on a module; attributes that a class
    did not have before. Containers of more than 256 members are put back as all others, but their members are followed
    only if a sample of them, from the ends of a list, is worth it.

    The cost is that of a shallow copy of each object and container, tens of microseconds for a small program. Code is
    read once, when it first turns up.

    Args:
        roots: Objects whose attributes are saved, such as problems, an environment, an engine.
        functions: Code of the program beside the methods of the roots.
    """

    def __init__(self, *roots: object, functions: Iterable[Callable[..., Any]] = ()) -> None:
        self._roots, self._functions = roots, tuple(functions)
        modules = [getattr(one, "__module__", None) for one in (*map(type, roots), *self._functions)]
        self._known = Known(Ownership(name for name in modules if name))
        self._kinds = Kinds(self._known)
        self._read = False

    def undone(self) -> AbstractContextManager[None]:
        """A block that leaves the program's objects as they were; blocks may be nested."""
        return _Block(self.taken)

    def taken(self) -> Snapshot:
        """The state now, with copies in the places of tensors and arrays that code may write into."""
        if not self._read:  # not at construction: a program may go on defining functions
            self._read = True
            for root in self._roots:
                self._known.learn(type(root))
        while True:
            size = self._known.size
            snapshot = Snapshot(self._kinds)
            try:
                snapshot.take(self._roots, self._functions, SKIPPED)
            except BaseException:
                snapshot.restore()
                raise
            if self._known.size == size:
                return snapshot
            # Code that has turned up on the way may reach more.
            snapshot.restore()


class _Silent(io.TextIOBase):
    """Takes text and does nothing with it."""

    encoding, errors = "utf-8", "replace"

    def __init__(self) -> None:
        self.buffer = _SilentBytes()

    def write(self, text: str) -> int:
        return len(text)

    def writable(self) -> bool:
        return True


class _SilentBytes(io.RawIOBase):
    def write(self, data: Any) -> int:
        return len(data)

    def writable(self) -> bool:
        return True


SILENT = _Silent()
LOGGERS = (logging.getLogger(), logging.getLogger(NAME))


class _Block(AbstractContextManager[None]):
    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take

    def __enter__(self) -> None:
        self._snapshot = self._take()
        for logger in LOGGERS:
            self._snapshot.mute(logger)
        self._outside = sys.stdout, sys.stderr, sys.breakpointhook, LoggerBase.silent
        sys.stdout = sys.stderr = SILENT
        sys.breakpointhook = _pass_by
        LoggerBase.silent = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._restore()
        except KeyboardInterrupt:  # came while things were put back: first finish that
            self._restore()
            raise

    def _restore(self) -> None:
        sys.stdout, sys.stderr, sys.breakpointhook, LoggerBase.silent = self._outside
        self._snapshot.restore()


def _pass_by(*args: Any, **kwargs: Any) -> None:
    """A breakpoint of an evaluation that nobody would see."""
