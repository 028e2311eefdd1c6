"""Specs and programs that the tests of specs write into folders of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from betty.ir.diagnostics import SpecError
from betty.spec.frontend import Program, compile_source

PROGRAM = '''\
"""A program without torch: its modules are plain classes."""


class Net:
    def __init__(self, width=16):
        self.width = width


class Weigher:
    pass


class Sgd:
    def __init__(self, params, lr, momentum=0.0):
        self.params, self.lr, self.momentum = params, lr, momentum


class Decay:
    def __init__(self, optimizer, *, factor=0.5):
        self.optimizer, self.factor = optimizer, factor


def digits(noise=0.0):
    return [noise]


def weighted_loss(batch, classifier, weigher):
    return 0.0


def clean_loss(batch, classifier, temperature=1.0):
    return 0.0


def own_loss(weigher):
    return 0.0


def misspelt_loss(batch, clasifier):
    return 0.0


def positional_loss(batch, weigher, /, classifier):
    return 0.0


class BadLoss:
    def __init__(self):
        raise RuntimeError("no loss today")

    def __call__(self, batch, classifier, weigher):
        return 0.0


def accuracy(classifier):
    return {"accuracy": 1.0}


def batch_accuracy(batch, classifier):
    return {"accuracy": 1.0}


WIDTH = 8
EXAMPLES = [1, 2, 3]
'''

# Modules that lie beside the program and cannot be imported.
FAILING = {
    "broken": "def make():\n    return 1 / 0\n\n\nNet = make()\n",
    "needy": "import no_such_package\n",
    "leaver": "import sys\n\nsys.exit(3)\n",
    "garbled": "class Net(:\n    pass\n",
}

SPEC = """\
name: reweight
problems:
  classifier:
    module: {target: program:Net, args: {width: 8}}
    loss: program:weighted_loss
    data: {target: program:digits, args: {noise: 0.4}, batch_size: 64}
    optimizer: {target: program:Sgd, lr: 1e-1, momentum: 0.9}
    scheduler: {target: program:Decay, factor: 0.1}
    unroll: 2
  weigher:
    module: program:Weigher
    loss: program:clean_loss
    data: {target: program:digits, batch_size: 64}
    optimizer: {target: program:Sgd, args: {lr: 0.01}}
edges:
  - {upper: weigher, lower: classifier, flow: both, method: auto}
engine:
  iterations: 100
  validate: {target: program:accuracy, every: 10}
  early_stopping: {metric: accuracy, mode: max}
  checkpoint: {every: 20}
"""


def write(folder: Path, spec: str = SPEC, program: str = PROGRAM) -> Path:
    """A spec and its program in ``folder``; the path of the spec."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    path = folder / "spec.yaml"
    path.write_text(spec, encoding="utf-8")
    return path


def edited(*changes: tuple[str, str], text: str = SPEC) -> str:
    """``text`` with each first part replaced by the second; every first part must be there."""
    for old, new in changes:
        assert old in text, f"{old!r} is not in the text"
        text = text.replace(old, new, 1)
    return text


def compiled(folder: Path, spec: str = SPEC, program: str = PROGRAM, static: bool = False) -> Program:
    return compile_source(write(folder, spec, program), static=static)


def report(folder: Path, spec: str, program: str = PROGRAM, static: bool = False, overrides: Sequence[str] = ()) -> str:
    """The text of the error that ``spec`` gives, with the folder left out of its paths."""
    path = write(folder, spec, program)
    with pytest.raises(SpecError) as error:
        compile_source(path, overrides, static=static)
    text = str(error.value)
    assert "Traceback" not in text
    return text.replace(f"{folder}/", "")


def report_with_files(folder: Path, spec: str, static: bool = False) -> str:
    """As :func:`report`, with the modules of ``FAILING`` beside the program, which has imported ``os``."""
    for name, text in FAILING.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return report(folder, spec, f"import os\n{PROGRAM}", static)
