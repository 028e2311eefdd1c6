"""Random states of everything that a loss may draw from, taken and put back."""

from __future__ import annotations

import hashlib
import random
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """States of torch's generators, the device's included; of Python's and NumPy's (if in use) where asked for."""

    cpu: Tensor
    cuda: Tensor | None = None
    python: Any = None
    numpy: Any = None

    @classmethod
    def capture(cls, device: torch.device, *, host: bool = True, known: RandomState | None = None) -> RandomState:
        """The states now; with ``host``, those of Python and NumPy too.

        Where torch's is that of ``known``, both share its room: kept for every update, it adds up.
        """
        numpy = sys.modules.get("numpy") if host else None
        cpu = torch.default_generator.get_state()
        return cls(
            cpu=known.cpu if known is not None and torch.equal(known.cpu, cpu) else cpu,
            cuda=torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            python=random.getstate() if host else None,
            numpy=numpy.random.get_state() if numpy else None,
        )

    def restore(self, device: torch.device) -> None:
        # States are tensors of the CPU, wherever they were loaded to.
        torch.default_generator.set_state(self.cpu.cpu())
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda.cpu(), device)
        if self.python is not None:
            random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)

    @classmethod
    def seeded(cls, seed: int, device: torch.device) -> RandomState:
        """The states after seeding every generator with ``seed``; the generators themselves are left alone."""
        with replaying(None, device):
            torch.manual_seed(seed)
            random.seed(seed)
            if numpy := sys.modules.get("numpy"):
                numpy.random.seed(seed % 2**32)
            return cls.capture(device)


def replaying(state: RandomState | None, device: torch.device, *, host: bool = True) -> AbstractContextManager[None]:
    """Draw from ``state`` (from where the generators stand, if ``None``), then put everything back as it was."""
    return _Replay(state, device, host=host)


class _Replay:
    """A class, since entering a generator takes longer than capturing the states."""

    __slots__ = ("_before", "_device", "_host", "_state")

    def __init__(self, state: RandomState | None, device: torch.device, *, host: bool = True) -> None:
        self._state, self._device, self._host = state, device, host

    def __enter__(self) -> None:
        self._before = RandomState.capture(self._device, host=self._host)
        try:
            if self._state is not None:
                self._state.restore(self._device)
        except BaseException:
            self._before.restore(self._device)
            raise

    def __exit__(self, *error: object) -> None:
        self._before.restore(self._device)


def derived_seed(seed: int, *names: str) -> int:
    """A seed of its own for each name, so that adding a problem changes nothing for the others."""
    text = "/".join([str(seed), *names])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
