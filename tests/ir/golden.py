"""Golden files: text that a change must not alter unseen. ``UPDATE_GOLDEN=1 pytest tests/ir`` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))


def check_golden(name: str, text: str) -> None:
    path = FOLDER / f"{name}.txt"
    if UPDATE:
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"no golden file {path.name}; UPDATE_GOLDEN=1 writes it"
    assert text == path.read_text(encoding="utf-8")
