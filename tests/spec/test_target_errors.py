"""One test on the exact text of every way in which a target can fail."""

# ruff: noqa: E501  (messages stand as they are shown)

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spec.support import edited, report_with_files

CASES = {
    "no_module": (
        [("program:Net", "progam:Net")],
        """\
SpecError: problems.classifier.module.target: there is no module 'progam'
  where     spec.yaml:4:22
  expected  broken.py, garbled.py, leaver.py, needy.py, program.py beside the spec, or torch, betty
  try       program
""",
    ),
    "no_dotted_module": (
        [("program:Net", "progam.Net")],
        """\
SpecError: problems.classifier.module.target: there is no module 'progam'
  where     spec.yaml:4:22
  expected  broken.py, garbled.py, leaver.py, needy.py, program.py beside the spec, or torch, betty
  try       program
""",
    ),
    "no_name": (
        [("program:Net", "program:net")],
        """\
SpecError: problems.classifier.module.target: 'program' has no 'net'
  where     spec.yaml:4:22
  expected  one of BadLoss, Decay, Net, Sgd, Weigher, accuracy, batch_accuracy, clean_loss, digits, misspelt_loss, own_loss, positional_loss, weighted_loss
  try       program:Net
""",
    ),
    "untrusted_package": (
        [("program:Net", "yaml:load")],
        """\
SpecError: problems.classifier.module.target: package 'yaml' is not trusted
  where     spec.yaml:4:22
  expected  files beside the spec, torch, betty
  try       --trust yaml, or trust = ["yaml"] under [tool.betty] in pyproject.toml
""",
    ),
    "untrusted_part_of_torch": (
        [("program:Net", "torch.hub.load")],
        """\
SpecError: problems.classifier.module.target: 'torch.hub.load' is not a part of torch that a spec may use
  where     spec.yaml:4:22
  expected  something of torch.nn, torch.optim, torch.distributions, torch.utils.data
  try       --trust torch, or trust = ["torch"] under [tool.betty] in pyproject.toml
""",
    ),
    "module_inside_a_program": (
        [("program:Net", "program:os.system")],
        """\
SpecError: problems.classifier.module.target: 'program.os.system' leads into the package 'os', which is not trusted
  where     spec.yaml:4:22
  expected  something that program defines itself
""",
    ),
    "import_raises": (
        [("program:Net", "broken:Net")],
        """\
SpecError: problems.classifier.module.target: importing 'broken' raised ZeroDivisionError: division by zero, at broken.py:2
  where     spec.yaml:4:22
  expected  a module that can be imported
""",
    ),
    "import_needs_a_package": (
        [("program:Net", "needy:Net")],
        """\
SpecError: problems.classifier.module.target: importing 'needy' raised ModuleNotFoundError: No module named 'no_such_package', at needy.py:1
  where     spec.yaml:4:22
  expected  a module that can be imported
""",
    ),
    "import_exits": (
        [("program:Net", "leaver:Net")],
        """\
SpecError: problems.classifier.module.target: importing 'leaver' raised SystemExit: 3, at leaver.py:3
  where     spec.yaml:4:22
  expected  a module that can be imported
""",
    ),
    "syntax_error": (
        [("program:Net", "garbled:Net")],
        """\
SpecError: problems.classifier.module.target: importing 'garbled' raised SyntaxError: invalid syntax, at garbled.py:1
  where     spec.yaml:4:22
  expected  a module that can be imported
""",
    ),
    "unknown_argument": (
        [("width: 8", "widht: 8")],
        """\
SpecError: problems.classifier.module.args.widht: 'program:Net' takes no argument 'widht'
  where     spec.yaml:4:42
  expected  width
  try       width
""",
    ),
    "argument_of_a_function_without": (
        [("program:accuracy,", "program:accuracy, args: {top: 5},")],
        """\
SpecError: engine.validate.args.top: 'program:accuracy' takes no argument 'top'
  where     spec.yaml:19:47
  expected  classifier
""",
    ),
    "missing_argument": (
        [("lr: 1e-1, ", "")],
        """\
SpecError: problems.classifier.optimizer.target: 'program:Sgd' needs an argument 'lr'
  where     spec.yaml:7:25
  expected  a value for lr
  try       args: {lr: ...}
""",
    ),
    "argument_from_the_program": (
        [("lr: 1e-1, ", "lr: 1e-1, params: 3, ")],
        """\
SpecError: problems.classifier.optimizer.params: 'program:Sgd' gets its argument 'params' from the program
  where     spec.yaml:7:48
  expected  one of lr, momentum
""",
    ),
    "not_a_module": (
        [("{target: program:Net, args: {width: 8}}", "program:WIDTH")],
        """\
SpecError: problems.classifier.module: 'program:WIDTH' is a whole number, which is no module
  where     spec.yaml:4:13
  expected  a class or function that makes one, or a module itself
""",
    ),
    "loss_is_no_function": (
        [("program:weighted_loss", "program:WIDTH")],
        """\
SpecError: problems.classifier.loss: 'program:WIDTH' is a whole number, which cannot be called
  where     spec.yaml:5:11
  expected  a function that takes problems by name
""",
    ),
    "instance_with_arguments": (
        [("program:digits, args", "program:EXAMPLES, args")],
        """\
SpecError: problems.classifier.data.target: 'program:EXAMPLES' is a list and cannot be called with arguments
  where     spec.yaml:6:20
  expected  no args, or a class or function
""",
    ),
    "loss_class_raises": (
        [("program:weighted_loss", "program:BadLoss")],
        """\
SpecError: problems.classifier.loss: calling 'program:BadLoss' raised RuntimeError: no loss today, at program.py:50
  where     spec.yaml:5:11
""",
    ),
    "positional_only": (
        [("program:weighted_loss", "program:positional_loss")],
        """\
SpecError: problems.classifier.loss: 'program:positional_loss' takes 'batch' by position only
  where     spec.yaml:5:11
  expected  arguments that can be given by name

SpecError: problems.classifier.loss: 'program:positional_loss' takes 'weigher' by position only
  where     spec.yaml:5:11
  expected  arguments that can be given by name

2 errors
""",
    ),
}


@pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES.keys())
def test_target_error(changes: list[tuple[str, str]], expected: str, tmp_path: Path) -> None:
    assert report_with_files(tmp_path, edited(*changes)) + "\n" == expected
