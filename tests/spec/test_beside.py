"""Modules beside a spec, and which others it may import."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from betty.ir.diagnostics import SpecError
from betty.spec.beside import import_beside, plain_name
from betty.spec.frontend import compile_source
from betty.spec.targets import Importer, TargetError
from betty.spec.trust import Trust, trust_of
from tests.spec.support import PROGRAM, SPEC, compiled, edited, write


def folder_with(tmp_path: Path, name: str, **files: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    for stem, text in files.items():
        (folder / f"{stem}.py").write_text(text, encoding="utf-8")
    return folder


def test_two_programs_of_one_name_do_not_meet(tmp_path: Path) -> None:
    first, second = folder_with(tmp_path, "first"), folder_with(tmp_path, "second")
    one = compiled(first, program=PROGRAM + "\n\nMARK = 1\n").resolved
    two = compiled(second, program=PROGRAM + "\n\nMARK = 2\n").resolved
    assert one is not None
    assert two is not None
    marks = [part.problems["weigher"].loss.__globals__["MARK"] for part in (one, two)]
    assert marks == [1, 2]
    assert "program" not in sys.modules


def test_siblings_are_importable_and_do_not_meet(tmp_path: Path) -> None:
    program = "from helpers import value\n\n\ndef late():\n    return value\n"
    first = folder_with(tmp_path, "first", program=program, helpers="value = 1\n")
    second = folder_with(tmp_path, "second", program=program, helpers="value = 2\n")
    assert [import_beside(folder, "program").late() for folder in (first, second, first)] == [1, 2, 1]
    assert "helpers" not in sys.modules
    assert str(first) not in sys.path


def test_relative_imports_and_packages(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "first", program="from .parts.net import Net\n")
    (folder / "parts").mkdir()
    (folder / "parts" / "net.py").write_text("class Net:\n    pass\n")
    (folder / "parts" / "__init__.py").write_text("")
    net = import_beside(folder, "program").Net
    assert plain_name(net.__module__) == "parts.net"
    assert Importer(folder, Trust()).find("parts.net:Net") is net
    assert Importer(folder, Trust()).find("parts.net.Net") is net


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "first", program="from helpers import value\n", helpers="value = 1\n")
    assert import_beside(folder, "program").value == 1
    (folder / "helpers.py").write_text("value = 22\n")
    assert import_beside(folder, "program").value == 22


def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "first", program="value = object()\n")
    assert import_beside(folder, "program").value is import_beside(folder, "program").value


def test_a_file_that_failed_can_be_mended(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "first", program="value = 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        import_beside(folder, "program")
    (folder / "program.py").write_text("value = 1\n")
    os.utime(folder / "program.py", ns=(1, 1))
    assert import_beside(folder, "program").value == 1


def test_other_packages_stay_loaded(tmp_path: Path) -> None:
    before = set(sys.modules)
    folder = folder_with(tmp_path, "first", program="import json.tool\n")
    import_beside(folder, "program")
    assert "json.tool" in sys.modules
    assert not [name for name in set(sys.modules) - before if name == "program"]


def test_a_package_can_be_trusted_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, edited(("{target: program:Net, args: {width: 8}}", "fractions.Fraction")))
    with pytest.raises(SpecError, match="package 'fractions' is not trusted"):
        compile_source(path)
    assert compile_source(path, trust=("fractions",)).resolved is not None


@pytest.mark.parametrize("static", [False, True])
def test_a_package_can_be_trusted_by_pyproject(tmp_path: Path, static: bool) -> None:
    folder = folder_with(tmp_path, "inner")
    path = write(folder, edited(("{target: program:Net, args: {width: 8}}", "fractions:Fraction")))
    (tmp_path / "pyproject.toml").write_text('[tool.betty]\ntrust = ["fractions"]\n')
    assert (compile_source(path, static=static).resolved is None) is static


def test_the_nearest_pyproject_counts(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "inner")
    (tmp_path / "pyproject.toml").write_text('[tool.betty]\ntrust = ["fractions"]\n')
    (folder / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert trust_of(folder) == Trust()
    assert trust_of(tmp_path, ["yaml"]) == Trust(frozenset({"fractions", "yaml"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.betty]\ntrust = 'x'\n", "'trust' under [tool.betty] is no list of names"),
        ("[tool]\nbetty = 3\n", "'trust' under [tool.betty] is no list of names"),
        ("x = = 1", "the file cannot be read: Invalid value (at line 1, column 5)"),
    ],
)
def test_a_pyproject_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(SpecError) as error:
        compile_source(write(tmp_path, SPEC))
    assert [(one.message, one.where) for one in error.value.diagnostics] == [(message, f"{tmp_path}/pyproject.toml")]


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "torch.load",
        "torch:load",
        "torch.utils.cpp_extension.load_inline",
        "torch.utils.data._utils.worker.os",
        "torch.nn.Module.__init__",
    ],
)
def test_parts_of_torch_that_run_code_are_not_for_specs(tmp_path: Path, target: str) -> None:
    with pytest.raises(TargetError) as error:
        Importer(tmp_path, Trust()).find(target)
    assert error.value.issue.code == "untrusted"


@pytest.mark.parametrize("target", ["torch.optim.lr_scheduler.partial", "torch.nn.functional.importlib"])
def test_names_that_torch_has_from_elsewhere(tmp_path: Path, target: str) -> None:
    with pytest.raises(TargetError) as error:
        Importer(tmp_path, Trust()).find(target)
    assert error.value.issue.code == "untrusted"


def test_names_of_torch(tmp_path: Path) -> None:
    import torch

    importer = Importer(tmp_path, Trust())
    assert importer.find("torch.optim.SGD") is torch.optim.SGD
    assert importer.find("torch.optim.lr_scheduler:StepLR") is torch.optim.lr_scheduler.StepLR
    assert importer.find("torch.nn.functional.mse_loss") is torch.nn.functional.mse_loss
    assert importer.find("torch.utils.data.TensorDataset") is torch.utils.data.TensorDataset
    with pytest.raises(TargetError) as error:
        importer.find("torch.optim.SDG")
    assert error.value.issue.message == "'torch.optim' has no 'SDG'"
    assert error.value.issue.hint == "torch.optim.SGD"


def test_a_file_beside_the_spec_never_stands_for_torch(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "first", torch="raise RuntimeError('wrong file')\n")
    assert Importer(folder, Trust()).address("torch.optim.SGD").beside is False
