"""Which packages a spec may import: those beside it, ``torch`` and ``betty``, and what its reader trusts."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from betty.ir.diagnostics import Diagnostic, SpecError
from betty.spec.positions import relative

CORE = ("torch", "betty")
# The rest of torch can run downloaded code, load pickles or build extensions, all from plain data.
TORCH = ("torch.nn", "torch.optim", "torch.distributions", "torch.utils.data")


@dataclass(frozen=True)
class Trust:
    """The packages that a spec may import.

    Args:
        named: Top-level packages that were trusted by name, beyond ``torch`` and ``betty``.
    """

    named: frozenset[str] = frozenset()

    def allows(self, module: str) -> bool:
        """Whether ``module`` may be imported."""
        top = module.partition(".")[0]
        return top in CORE or top in self.named

    def allows_name(self, dotted: str) -> bool:
        """Whether the object at ``dotted`` may be used: of torch, only its layers, optimisers and data sets."""
        top = dotted.partition(".")[0]
        if top != "torch" or "torch" in self.named:
            return self.allows(dotted)
        private = any(part.startswith("_") for part in dotted.split("."))
        deep = dotted.startswith("torch.utils.data.") and dotted.count(".") > 3
        return not private and not deep and dotted.startswith(tuple(f"{tree}." for tree in TORCH))

    @property
    def packages(self) -> list[str]:
        return [*CORE, *sorted(self.named - set(CORE))]


def trust_of(folder: Path, named: Iterable[str] = ()) -> Trust:
    """Trust by name and by ``[tool.betty] trust = [...]`` of the nearest ``pyproject.toml`` at or above ``folder``.

    Raises:
        SpecError: That file cannot be read, or its list is none of names.
    """
    return Trust(frozenset(named) | frozenset(_configured(folder)))


def _configured(folder: Path) -> Collection[str]:
    file = next(
        (one / "pyproject.toml" for one in (folder, *folder.parents) if (one / "pyproject.toml").is_file()), None
    )
    if file is None:
        return ()
    try:
        tool = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _wrong(file, f"the file cannot be read: {error}") from None
    section: Any = tool.get("betty", {}) if isinstance(tool, dict) else {}
    names: Any = section.get("trust", []) if isinstance(section, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong(file, "'trust' under [tool.betty] is no list of names")
    return names


def _wrong(file: Path, message: str) -> SpecError:
    expected = 'trust = ["package"] under [tool.betty]'
    return SpecError([Diagnostic(code="bad-trust", field=(), message=message, expected=expected, where=relative(file))])
