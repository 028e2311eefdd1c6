"""All targets of a spec: imported, checked against their arguments and made into factories."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from betty.ir.diagnostics import Diagnostic, Field
from betty.spec.beside import file_beside
from betty.spec.binding import argument_issues, call_issues, factory, instance_issues, makes_things
from betty.spec.fields import Target
from betty.spec.issues import Issue, kind_of
from betty.spec.load import Document, Draft
from betty.spec.models import ParameterSpec, ProblemSpec
from betty.spec.signatures import LossSignature, bound_names, loss_signature, reading_issues, signature_of
from betty.spec.static import Names, Outline, outline, read_names
from betty.spec.targets import Address, Importer, SameFailureError, TargetError, described
from betty.spec.trust import trust_of

Factory = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class ResolvedProblem:
    """What a problem is made of: factories, which nobody has called yet, and its loss.

    Args:
        module: Makes the module; ``None`` where the problem has ``parameters``.
        parameters: Named parameters; ``None`` where the problem has a module.
        loss: The loss, called by keyword as ``signature`` says.
        signature: What the loss takes.
        data: Makes a dataset, an iterable or a data loader; ``None`` without data.
        optimizer: Makes the optimiser from the parameters; ``None`` without one.
        scheduler: Makes the scheduler from the optimiser; ``None`` without one.
        outputs: Gives the model's outputs, called by keyword as ``outputs_signature`` says; of example weights.
        outputs_signature: What it takes.
    """

    module: Factory | None
    parameters: Mapping[str, ParameterSpec] | None
    loss: Callable[..., Any]
    signature: LossSignature
    data: Factory | None = None
    optimizer: Factory | None = None
    scheduler: Factory | None = None
    outputs: Callable[..., Any] | None = None
    outputs_signature: LossSignature | None = None


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The live parts of a spec, by problem, and the function that validates."""

    problems: Mapping[str, ResolvedProblem]
    validate: Callable[..., Any] | None = None
    validate_signature: LossSignature | None = None


@dataclass(frozen=True)
class Resolution:
    """What became of all targets.

    Args:
        resolved: The live parts; ``None`` when anything is wrong, and without imports.
        signatures: What each loss takes; ``None`` where that is unknown.
        diagnostics: Everything wrong with the targets.
    """

    resolved: Resolved | None
    signatures: Mapping[str, LossSignature | None]
    diagnostics: tuple[Diagnostic, ...]


# What makes an instance fit for a role.
ROLES: Mapping[str, tuple[str, tuple[str, ...], int]] = {
    "module": ("module", ("named_parameters",), 0),
    "data": ("source of data", ("__iter__", "__getitem__"), 0),
    "optimizer": ("optimizer", ("step",), 1),
    "scheduler": ("scheduler", ("step",), 1),
}


def resolve_all(draft: Draft, trust: Iterable[str] = (), static: bool = False) -> Resolution:
    """Resolve every target of ``draft``; mistakes are collected, not raised.

    With ``static`` nothing is imported: files beside the spec are read, other packages are taken on trust.

    Raises:
        SpecError: The ``pyproject.toml`` that names trusted packages cannot be used.
    """
    document = draft.document
    importer = Importer(document.folder, trust_of(document.folder, trust))
    return _Resolver(draft, importer, static).run()


@dataclass
class _Resolver:
    draft: Draft
    importer: Importer
    static: bool
    diagnostics: list[Diagnostic] = field(default_factory=list)
    signatures: dict[str, LossSignature | None] = field(default_factory=dict)
    read: dict[Path, Names] = field(default_factory=dict)

    @property
    def document(self) -> Document:
        return self.draft.document

    @property
    def names(self) -> Sequence[str]:
        return self.document.names

    def run(self) -> Resolution:
        problems = {name: self._problem(name, problem) for name, problem in self.document.spec.problems.items()}
        validate, signature = self._validate()
        whole = {name: one for name, one in problems.items() if one is not None}
        resolved = None
        if not self.static and not self.diagnostics and len(whole) == len(problems):
            resolved = Resolved(problems=whole, validate=validate, validate_signature=signature)
        return Resolution(resolved, self.signatures, tuple(self.diagnostics))

    def _problem(self, name: str, problem: ProblemSpec) -> ResolvedProblem | None:
        path: Field = ("problems", name)
        # As they are written, since a module that cannot be imported is reported at the first target that needs it.
        place = self.document.positions.place
        made: dict[str, Factory | None] = {}
        loss, signature = None, None
        for role in sorted((*ROLES, "loss"), key=lambda one: place((*path, one)).order):
            if role == "loss":
                loss, signature = self._function((*path, "loss"), problem.loss, batch=True)
            else:
                made[role] = self._factory((*path, role), role, getattr(problem, role))
        weights = problem.example_weights
        inside = (*path, "example_weights", "outputs")
        outputs, of_outputs = self._function(inside, weights.outputs if weights else None, batch=True)
        self.signatures[name] = signature
        if signature is not None:
            self._check_data(path, name, problem, signature)
        if loss is None or signature is None:
            return None
        return ResolvedProblem(
            parameters=problem.parameters,
            loss=loss,
            signature=signature,
            outputs=outputs,
            outputs_signature=of_outputs,
            **made,
        )

    def _check_data(self, path: Field, name: str, problem: ProblemSpec, signature: LossSignature) -> None:
        if problem.example_weights is not None:
            return  # queries may come later
        if signature.batch and problem.data is None and not self.draft.fitted.touched((*path, "data")):
            message = f"the loss of {name!r} ({problem.loss.text if problem.loss else ''}) takes the batch"
            issue = Issue(
                code="needs-field",
                message=f"{message}, but the problem has no data",
                expected="data beside the loss, or a loss without the argument batch",
            )
            self._add((*path, "loss"), [issue])

    def _validate(self) -> tuple[Callable[..., Any] | None, LossSignature | None]:
        return self._function(("engine", "validate"), self.document.spec.engine.validation, batch=False)

    def _add(self, path: Field, issues: Iterable[Issue]) -> None:
        for one in issues:
            where: Field = (*path, *one.at)
            if not one.at and (*path, "target") in self.document.positions:
                where = (*path, "target")
            wrong = Diagnostic(code=one.code, field=where, message=one.message, expected=one.expected, hint=one.hint)
            self.diagnostics.append(wrong)

    def _find(self, path: Field, target: Target) -> Any:
        """The object, or with ``static`` its outline; ``_NOTHING`` after a mistake, which is noted."""
        if not isinstance(target.target, str):
            return target.target
        try:
            if self.static:
                return self._outline(self.importer.address(target.target))
            return self.importer.find(target.target)
        except SameFailureError:
            return _NOTHING
        except TargetError as error:
            self._add(path, [error.issue])
            return _NOTHING

    def _outline(self, address: Address) -> Outline:
        file = file_beside(self.document.folder, address.module) if address.beside else None
        if file is None:
            return Outline()
        if file not in self.read:
            self.importer.refuse_again(address.module)
            self.importer.failed.add(address.module)
            self.read[file] = read_names(file, address.module)
            self.importer.failed.discard(address.module)
        return outline(address, self.read[file])

    def _factory(self, path: Field, role: str, target: Target | None) -> Factory | None:
        if target is None or (found := self._find(path, target)) is _NOTHING:
            return None
        name, needs, filled = ROLES[role]
        called = repr(target.text)
        if isinstance(found, Outline):
            self._add(path, argument_issues(called, found.call, target.args, filled) if found.call else ())
            return None
        made = not makes_things(found, needs)
        if made:
            issues = instance_issues(called, found, name, needs, target.args)
        else:
            issues = call_issues(called, found, target.args, filled)
        self._add(path, issues)
        return None if issues else factory(found, target.args, made)

    def _function(
        self, path: Field, target: Target | None, batch: bool
    ) -> tuple[Callable[..., Any] | None, LossSignature | None]:
        """A loss or a validation and what it takes."""
        if target is None or (found := self._find(path, target)) is _NOTHING:
            return None, None
        called = repr(target.text)
        if isinstance(found, Outline):
            return None, self._outlined(path, called, found, target, batch)
        function = self._as_function(path, called, found, target)
        if function is None:
            return None, None
        signature = signature_of(function)
        if signature is None:
            return function, LossSignature(batch=batch, everything=True)
        bound = bound_names(function)
        return function, self._signature(path, called, signature, bound, batch)

    def _as_function(self, path: Field, called: str, found: Any, target: Target) -> Callable[..., Any] | None:
        """``found`` with its ``args`` filled in; a class is called with them, which must give a function."""
        args = target.args
        issues: list[Issue] = []
        if inspect.isclass(found):
            issues = call_issues(called, found, args)
            found = None if issues else self._instance(path, called, found, args)
            args = {}
            if found is None:
                self._add(path, issues)
                return None
        if not callable(found):
            message = f"{called} is {kind_of(found)}, which cannot be called"
            issues = [Issue(code="not-callable", message=message, expected="a function that takes problems by name")]
        elif args and (signature := signature_of(found)) is not None:
            issues = [one for one in argument_issues(called, signature, args) if one.code == "unknown-argument"]
        self._add(path, issues)
        return None if issues else functools.partial(found, **args) if args else found

    def _instance(self, path: Field, called: str, found: Any, args: Mapping[str, Any]) -> Any:
        try:
            return found(**args)
        except (Exception, SystemExit) as error:
            message = f"calling {called} raised {described(error, self.document.folder)}"
            self._add(path, [Issue(code="call-failed", message=message)])
            return None

    def _outlined(self, path: Field, called: str, found: Outline, target: Target, batch: bool) -> LossSignature | None:
        if found.is_class and found.call:
            self._add(path, argument_issues(called, found.call, target.args))
        signature = found.result if found.is_class else found.call
        if signature is None:
            return None
        if found.is_class:
            return self._signature(path, called, signature, (), batch)
        wrong = argument_issues(called, signature, target.args)
        self._add(path, [one for one in wrong if one.code == "unknown-argument"])
        return self._signature(path, called, signature, frozenset(target.args), batch)

    def _signature(
        self, path: Field, called: str, signature: inspect.Signature, bound: Iterable[str], batch: bool
    ) -> LossSignature | None:
        filled = frozenset(bound)
        weights = [name for name, one in self.document.spec.problems.items() if one.example_weights is not None]
        # A validation measures what is trained; a loss that reads weights is told why it cannot.
        names = self.names if batch else [name for name in self.names if name not in weights]
        wrong = list(reading_issues(called, signature, names, filled, batch))
        if wrong and self.draft.fitted.without_problems:
            return None
        self._add(path, wrong)
        # A misspelt name is one mistake, not also a flow that nobody reads.
        return None if wrong else loss_signature(signature, names, filled)


_NOTHING = object()
