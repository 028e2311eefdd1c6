"""What holds for every test: fixed seeds, no windows, no deadline that a busy machine could miss."""

from __future__ import annotations

import os
import random
import sys

import pytest
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")

# The same examples in every run, so that a failure seen once is seen again.
settings.register_profile("betty", deadline=None, derandomize=True, print_blob=True, max_examples=50)
settings.load_profile("betty")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Seed what has been imported; tests of the IR and of specs must not import torch on account of this."""
    random.seed(0)
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(0)


LONG = ("tests/docs/test_snippets", "tests/classes/test_processes", "tests/check", "tests/engine/test_resume")
"""Files whose single tests take seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: none of several workers is left with them at the end, when the others have nothing to do."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
