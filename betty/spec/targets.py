"""From the text of a target to the object that it names."""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from betty.ir.diagnostics import listing, nearest
from betty.spec.beside import PREFIX, file_beside, import_beside, modules_beside, plain_name
from betty.spec.issues import Issue
from betty.spec.positions import relative
from betty.spec.trust import CORE, TORCH, Trust


class TargetError(Exception):
    """A target that names nothing that can be used."""

    def __init__(self, issue: Issue) -> None:
        super().__init__(issue.message)
        self.issue = issue


@dataclass(frozen=True)
class Address:
    """A target in two parts: a module and the names that lead from it to the object."""

    module: str
    names: tuple[str, ...]
    beside: bool

    @property
    def dotted(self) -> str:
        return ".".join([self.module, *self.names])


@dataclass
class Importer:
    """Finds objects for the specs of one folder; remembers which modules failed, as one report of that is enough."""

    folder: Path
    trust: Trust
    failed: set[str] = field(default_factory=set)

    def find(self, text: str) -> Any:
        """The object that ``text`` names.

        Raises:
            TargetError: It is not trusted, there is no such module or name, or its import raised.
        """
        address = self.address(text)
        module = self._module(address)
        return self._attribute(module, address)

    def address(self, text: str) -> Address:
        """Where ``text`` leads; nothing is imported.

        Raises:
            TargetError: It is not trusted, or no such module lies beside the spec.
        """
        module, colon, names = text.rpartition(":")
        address = self._colon(module, names) if colon else self._dotted(text)
        if address is None:
            raise TargetError(self._missing_module(module or text.rpartition(".")[0]))
        if not address.beside and not self.trust.allows_name(address.dotted):
            raise TargetError(self._untrusted_name(address))
        return address

    def _colon(self, module: str, names: str) -> Address | None:
        top = module.partition(".")[0]
        beside = top not in CORE and file_beside(self.folder, module) is not None
        return Address(module, tuple(names.split(".")), beside) if beside or self.trust.allows(module) else None

    def _dotted(self, text: str) -> Address | None:
        parts = text.split(".")
        for length in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:length])
            if parts[0] not in CORE and file_beside(self.folder, module):
                return Address(module, tuple(parts[length:]), beside=True)
        return Address(parts[0], tuple(parts[1:]), beside=False) if self.trust.allows(text) else None

    def _missing_module(self, module: str) -> Issue:
        top = module.partition(".")[0]
        if _installed(top):
            return Issue(
                code="untrusted",
                message=f"package {top!r} is not trusted",
                expected=f"files beside the spec, {listing(self.trust.packages)}",
                hint=f'--trust {top}, or trust = ["{top}"] under [tool.betty] in pyproject.toml',
            )
        here = modules_beside(self.folder)
        files = [f"{name}.py" for name in here]
        return Issue(
            code="no-module",
            message=f"there is no module {module!r}",
            expected=f"{listing(files) if files else f'{top}.py'} beside the spec, or {listing(self.trust.packages)}",
            hint=nearest(module, here),
        )

    def _untrusted_name(self, address: Address) -> Issue:
        return Issue(
            code="untrusted",
            message=f"{address.dotted!r} is not a part of torch that a spec may use",
            expected=f"something of {listing(TORCH)}",
            hint='--trust torch, or trust = ["torch"] under [tool.betty] in pyproject.toml',
        )

    def _module(self, address: Address) -> ModuleType:
        self.refuse_again(address.module)
        try:
            if address.beside:
                return import_beside(self.folder, address.module)
            return importlib.import_module(address.module)
        except (Exception, SystemExit) as error:
            self.failed.add(address.module)
            raise TargetError(self._import_issue(address, error)) from None

    def refuse_again(self, module: str) -> None:
        """Raise :class:`SameFailureError` if ``module`` has failed before."""
        if module in self.failed:
            raise SameFailureError(Issue(code="import-failed", message=f"{module!r} has failed before"))

    def _import_issue(self, address: Address, error: BaseException) -> Issue:
        if isinstance(error, ModuleNotFoundError) and not address.beside and _is_part(error.name, address.module):
            message = f"there is no module {error.name!r}"
            return Issue(code="no-module", message=message, expected="a module that is installed")
        message = f"importing {address.module!r} raised {described(error, self.folder)}"
        return Issue(code="import-failed", message=message, expected="a module that can be imported")

    def _attribute(self, module: ModuleType, address: Address) -> Any:
        found: Any = module
        done = [address.module]
        for name in address.names:
            inner = self._get(found, name, ".".join(done), address)
            if isinstance(inner, ModuleType) and not self._may_enter(inner):
                raise TargetError(_other_package(address, inner.__name__))
            found = inner
            done.append(name)
        if not address.beside and not isinstance(found, ModuleType):
            self._check_home(found, address)
        return found

    def _get(self, found: Any, name: str, place: str, address: Address) -> Any:
        try:
            return getattr(found, name)
        except AttributeError:
            pass
        except Exception as error:
            message = f"{name!r} of {place!r} raised {described(error, self.folder)}"
            raise TargetError(Issue(code="import-failed", message=message)) from None
        if isinstance(found, ModuleType) and not address.beside:
            try:
                return importlib.import_module(f"{found.__name__}.{name}")
            except ModuleNotFoundError:
                pass
            except (Exception, SystemExit) as error:
                raise TargetError(self._import_issue(address, error)) from None
        raise TargetError(_missing_name(found, name, place, address.beside))

    def _may_enter(self, module: ModuleType) -> bool:
        # Else ``program:os.system`` would reach everything that a program happens to import.
        return module.__name__.startswith(PREFIX) or self.trust.allows(module.__name__) or self._lies_beside(module)

    def _lies_beside(self, module: ModuleType) -> bool:
        file = file_beside(self.folder, module.__name__)
        return file is not None and str(file.resolve()) == getattr(module, "__file__", None)

    def _check_home(self, found: Any, address: Address) -> None:
        """A trusted package may hold names of others: of these, only what is trusted too."""
        home = getattr(found, "__module__", None)
        if isinstance(home, str) and not self.trust.allows(home):
            raise TargetError(self._missing_module(home))


class SameFailureError(TargetError):
    """A target in a module whose failure was reported already."""


def described(error: BaseException, folder: Path) -> str:
    """The kind and first line of ``error`` and where in the user's files it was raised; no traceback."""
    lines = str(error.msg if isinstance(error, SyntaxError) else error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    place = raised_at(error, folder)
    return f"{text}, at {place}" if place else text


def raised_at(error: BaseException, folder: Path) -> str:
    """``file:line`` of the last step of ``error`` inside ``folder``."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{relative(Path(error.filename))}:{error.lineno}"
    home = folder.resolve()
    inside = [step for step in _steps(error) if Path(step.filename).is_relative_to(home)]
    return f"{relative(Path(inside[-1].filename))}:{inside[-1].lineno}" if inside else ""


def _steps(error: BaseException) -> Iterator[traceback.FrameSummary]:
    for frame, line in traceback.walk_tb(error.__traceback__):
        yield traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name, lookup_line=False)


def _other_package(address: Address, package: str) -> Issue:
    return Issue(
        code="untrusted",
        message=f"{address.dotted!r} leads into the package {package!r}, which is not trusted",
        expected=f"something that {address.module} defines itself",
    )


def _missing_name(found: Any, name: str, place: str, beside: bool) -> Issue:
    names = sorted(_public(found))
    shown = plain_name(place)
    near = nearest(name, names)
    separator = ":" if beside and isinstance(found, ModuleType) else "."
    return Issue(
        code="no-name",
        message=f"{shown!r} has no {name!r}",
        expected=f"one of {listing(names)}" if names else "",
        hint=f"{shown}{separator}{near}" if near else "",
    )


def _public(found: Any) -> Iterator[str]:
    """Names that a target could mean: for a file beside the spec only those that it defines itself."""
    home = getattr(found, "__name__", "")
    for name, value in list(getattr(found, "__dict__", {}).items()):
        own = getattr(value, "__module__", home) == home or not home.startswith(PREFIX)
        if not name.startswith("_") and callable(value) and own:
            yield name


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _is_part(name: str | None, module: str) -> bool:
    return name is not None and f"{module}.".startswith(f"{name}.")
