"""A spec as YAML text, as it will be run: overrides put in, defaults left out."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any

import yaml

from betty.spec.beside import plain_name
from betty.spec.fields import OpenTarget, SpecModel, Target
from betty.spec.models import Spec


def to_yaml(spec: Spec) -> str:
    """``spec`` as the text of a file that means the same; reading it back gives an equal spec.

    Live objects are written as the target that names them where they can be imported; anything else is written as a
    text that says what it was, such as ``<object of Net>``.
    """
    # Wide, so that a line break never falls into a target.
    text: str = yaml.dump(_model(spec), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


LINE_BREAKS = "\x85\u2028\u2029"
"""Characters beyond the newline at which YAML breaks a line."""


class _Dumper(yaml.SafeDumper):
    """Writes no anchors, and puts everything in quotes that YAML 1.1 or 1.2 could take for anything but text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    from betty.spec.source import scalar

    style = "'" if not isinstance(scalar(text), str) else None
    if any(character in text for character in LINE_BREAKS):
        style = '"'  # the one style that escapes them
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _model(model: SpecModel) -> dict[str, Any]:
    """The fields of ``model`` that differ from their defaults."""
    written: dict[str, Any] = {}
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if info.is_required() or value != info.get_default(call_default_factory=True):
            written[info.alias or name] = _value(value)
    return written


def _value(value: Any) -> Any:
    if isinstance(value, Target):
        return _target(value)
    if isinstance(value, SpecModel):
        return _model(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    return value if value is None or type(value) in {bool, int, float, str} else live_name(value)


def _target(target: Target) -> Any:
    """The shortest form: the text alone, or the options of an optimiser beside it."""
    written = _model(target)
    written["target"] = target.target if isinstance(target.target, str) else live_name(target.target)
    if set(written) == {"target"}:
        return written["target"]
    args = written.get("args", {})
    if isinstance(target, OpenTarget) and not set(args) & set(type(target).model_fields):
        return {"target": written["target"], **args}
    return written


def live_name(live: Any) -> str:
    """``module:qualname`` of a class or function that can be imported by it, else a text that describes ``live``."""
    module, name = getattr(live, "__module__", None), getattr(live, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and _leads_to(module, name, live):
        return f"{plain_name(module)}:{name}"
    if isinstance(live, functools.partial):
        return f"<{live_name(live.func)} with {', '.join(live.keywords) or 'arguments'}>"
    described = name if isinstance(name, str) else type(live).__qualname__
    return f"<{described}>" if inspect.isroutine(live) or inspect.isclass(live) else f"<object of {described}>"


def _leads_to(module: str, name: str, live: Any) -> bool:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is live and module != "__main__"
