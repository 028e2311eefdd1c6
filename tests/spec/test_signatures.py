"""What losses read, with and without importing them."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from betty.spec.frontend import compile_source
from betty.spec.load import draft
from betty.spec.resolve import resolve_all
from betty.spec.signatures import LossSignature, bound_names, loss_signature, reading_issues, signature_of
from betty.spec.static import outline, read_names
from betty.spec.targets import Address
from tests.spec.support import PROGRAM, edited, write

NAMES = ("net", "weigher")


def plain(batch: Any, net: Any) -> None: ...
def defaults(net: Any, batch: Any = None, weigher: Any = None, scale: float = 1.0) -> None: ...
def open_ended(batch: Any, **others: Any) -> None: ...
def nothing() -> None: ...
def keywords(*, weigher: Any, scale: float = 2.0) -> None: ...


class Callee:
    def __call__(self, batch: Any, net: Any) -> None: ...


class Module:
    """As ``torch.nn.Module`` is called: through ``forward``."""

    def named_parameters(self) -> list[Any]:
        return []

    def __call__(self, *args: Any, **kwargs: Any) -> None: ...
    def forward(self, net: Any, weigher: Any) -> None: ...


CASES: list[tuple[Callable[..., Any], LossSignature]] = [
    (plain, LossSignature(batch=True, reads=("net",))),
    (defaults, LossSignature(batch=True, reads=("net", "weigher"), options=("scale",))),
    (open_ended, LossSignature(batch=True, everything=True)),
    (nothing, LossSignature()),
    (keywords, LossSignature(reads=("weigher",), options=("scale",))),
    (functools.partial(defaults, scale=3.0), LossSignature(batch=True, reads=("net", "weigher"))),
    (functools.partial(plain, net=1), LossSignature(batch=True)),
    (Callee(), LossSignature(batch=True, reads=("net",))),
    (Module(), LossSignature(reads=("net", "weigher"))),
    (Module().forward, LossSignature(reads=("net", "weigher"))),
]


@pytest.mark.parametrize(("function", "expected"), CASES, ids=[str(index) for index in range(len(CASES))])
def test_signatures(function: Callable[..., Any], expected: LossSignature) -> None:
    signature = signature_of(function)
    assert signature is not None
    assert loss_signature(signature, NAMES, bound_names(function)) == expected
    assert not list(reading_issues("'loss'", signature, NAMES, bound_names(function)))


def test_a_loss_of_everything_promises_nothing() -> None:
    assert LossSignature(everything=True, reads=("net",)).known is None
    assert LossSignature(reads=("net",)).known == ("net",)


STATIC = """
import functools

def simple(batch, net, /, weigher=1, *args, scale, **rest): ...

async def later(net): ...

@functools.cache
def decorated(batch): ...

class Loss:
    def __init__(self, scale, *, power=2): ...
    def __call__(self, batch, net): ...

class Inherits(Loss):
    def forward(self, net): ...

class Plain:
    pass

if True:
    def twice(a): ...
else:
    def twice(b): ...

made = functools.partial(simple)
first, *others = 1, 2
with open("x") as opened: ...
"""


def found(tmp_path: Path, name: str, text: str = STATIC) -> Any:
    (tmp_path / "program.py").write_text(text)
    return outline(Address("program", (name,), beside=True), read_names(tmp_path / "program.py", "program"))


@pytest.mark.parametrize(
    ("name", "call", "result"),
    [
        ("simple", "(batch, net, /, weigher=None, *args, scale, **rest)", None),
        ("later", "(net)", None),
        ("decorated", None, None),
        ("Loss", "(scale, *, power=None)", "(batch, net)"),
        ("Inherits", None, "(net)"),
        ("Plain", "()", None),
        ("twice", None, None),
        ("made", None, None),
        ("first", None, None),
        ("others", None, None),
        ("opened", None, None),
        ("functools", None, None),
    ],
)
def test_outlines(tmp_path: Path, name: str, call: str | None, result: str | None) -> None:
    one = found(tmp_path, name)
    assert (one.call and str(one.call), one.result and str(one.result)) == (call, result)


def test_a_star_import_may_hide_names(tmp_path: Path) -> None:
    assert found(tmp_path, "anything", "from torch.nn import *\n").call is None


def test_outlines_agree_with_imports(tmp_path: Path) -> None:
    namespace: dict[str, Any] = {}
    exec(PROGRAM, namespace)  # the module of the other tests, as the reference
    (tmp_path / "program.py").write_text(PROGRAM)
    names = read_names(tmp_path / "program.py", "program")
    functions = [node.name for node in ast.parse(PROGRAM).body if isinstance(node, ast.FunctionDef)]
    assert len(functions) > 5
    for name in functions:
        read = outline(Address("program", (name,), beside=True), names).call
        assert read is not None
        assert list(read.parameters) == list(inspect.signature(namespace[name]).parameters)


def test_static_signatures_are_those_of_the_import(tmp_path: Path) -> None:
    path = write(tmp_path)
    static, imported = (resolve_all(draft(path), static=one).signatures for one in (True, False))
    assert static == imported
    assert static["classifier"] == LossSignature(batch=True, reads=("classifier", "weigher"))


def test_static_imports_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, program=PROGRAM + "\n\nraise RuntimeError('imported')\n")
    assert compile_source(path, static=True).resolved is None


def test_arguments_of_a_loss(tmp_path: Path) -> None:
    spec = edited(("loss: program:clean_loss", "loss: {target: program:clean_loss, args: {temperature: 2.0}}"))
    resolved = compile_source(write(tmp_path, spec)).resolved
    assert resolved is not None
    loss = resolved.problems["weigher"].loss
    assert isinstance(loss, functools.partial)
    assert loss.keywords == {"temperature": 2.0}
    assert resolved.problems["weigher"].signature == LossSignature(batch=True, reads=("classifier",))
