"""What the fields of a spec are made of: the base model, names, targets."""

from __future__ import annotations

import functools
import keyword
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from betty.spec.issues import Issue, refuse, shown

PLAIN = {"plain": True}
"""Validation context of a spec that came as text: a target must then be text, never an object."""

WEIGHING = "weighing"
"""Key of the validation context for the names of problems that are example weights."""


class SpecModel(BaseModel):
    """Base of all models: immutable, no unknown keys, no silent conversion (``"3"`` is not a number)."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        validate_default=False,
    )


def _identifier(name: str) -> str:
    if name == "batch":
        raise refuse(
            Issue(code="bad-name", message="the name 'batch' means the batch", expected="another name", key=True)
        )
    if not name.isidentifier() or keyword.iskeyword(name):
        expected = "letters, digits and underscores, as losses name it as an argument"
        hint = _as_identifier(name)
        issue = Issue(code="bad-name", message=f"{name!r} is not a name", expected=expected, hint=hint, key=True)
        raise refuse(issue)
    return name


def _as_identifier(name: str) -> str:
    candidate = "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")
    if keyword.iskeyword(candidate):
        candidate += "_"
    return candidate if candidate.isidentifier() and candidate != "batch" else ""


Name = Annotated[str, AfterValidator(_identifier)]
"""A Python identifier that is no keyword and not ``batch``: losses name problems as arguments."""


class Target(SpecModel):
    """Something to import and, unless it is a function to be used as it is, to call.

    A bare ``module:name`` or ``package.module.Name`` stands for ``{target: ...}``. From Python, ``target`` may be
    the live object itself: a class or function is called with ``args`` as an imported one would be, an instance
    is used as it is.
    """

    shorthand: ClassVar[bool] = True

    target: Any = Field(
        description="`module:name` (a file beside the spec, or a trusted package) or a dotted name such as "
        "`torch.optim.SGD`; from Python also a live object.",
        json_schema_extra={"type": "string"},
    )
    args: dict[str, Any] = Field(default={}, description="Keyword arguments that it is called with.")

    @model_validator(mode="before")
    @classmethod
    def _from_shorthand(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Target | Mapping):
            return value
        if value is None or (_plain(info) and not isinstance(value, str)):
            raise refuse(_not_a_target(value))
        return {"target": value}

    @field_validator("target")
    @classmethod
    def _check_target(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            _check_text(value)
        elif _plain(info) or value is None or isinstance(value, bool | int | float | Mapping):
            raise refuse(_not_a_target(value))
        return value

    @property
    def text(self) -> str:
        """What people call the target: its text, or the name of the live object."""
        if isinstance(self.target, str):
            return self.target
        live = self.target
        while isinstance(live, functools.partial):
            live = live.func
        name = getattr(live, "__qualname__", None)
        return name if isinstance(name, str) else type(live).__qualname__


def _plain(info: ValidationInfo) -> bool:
    return bool(info.context and info.context.get("plain"))


def _not_a_target(value: Any) -> Issue:
    return Issue(
        code="bad-target",
        message=f"found {shown(value)}",
        expected="a target: module:name, a dotted name, or {target: ..., args: {...}}",
    )


def _check_text(text: str) -> None:
    module, colon, name = text.rpartition(":")
    parts = [*module.split("."), *name.split(".")] if colon else text.split(".")
    if all(part.isidentifier() for part in parts) and len(parts) > 1:
        return
    # A lone word is most often a name whose module was forgotten.
    hint = f"program:{text}, if it stands in program.py beside the spec" if text.isidentifier() else ""
    issue = Issue(
        code="bad-target",
        message=f"{text!r} is not a target",
        expected="module:name, such as program:Net, or a dotted name, such as torch.optim.SGD",
        hint=hint,
    )
    raise refuse(issue)


class OpenTarget(Target):
    """A target whose arguments may stand beside it: ``{target: torch.optim.SGD, lr: 0.1}``."""

    @model_validator(mode="before")
    @classmethod
    def _collect(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        beside = {key: one for key, one in value.items() if key not in cls.model_fields}
        args = value.get("args", {})
        if not beside or not isinstance(args, Mapping):
            return value
        if twice := [key for key in beside if key in args]:
            raise refuse(*(_twice(key) for key in twice))
        kept = {key: one for key, one in value.items() if key not in beside}
        return {**kept, "args": {**args, **beside}}


def _twice(key: str) -> Issue:
    return Issue(
        code="given-twice",
        message=f"{key!r} stands both in args and beside the target",
        at=(key,),
        expected="one of the two",
        key=True,
    )
