"""One test on the exact text of every mistake that no single field shows."""

# ruff: noqa: E501  (messages stand as they are shown)

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spec.support import SPEC, edited, report

CASES = {
    "no_problems": (
        [(SPEC, "name: x\nproblems: {}\n")],
        """\
SpecError: problems: there are no problems
  where     spec.yaml:2:11
  expected  at least one problem
""",
    ),
    "missing_loss": (
        [("    loss: program:clean_loss\n", "")],
        """\
SpecError: problems.weigher.loss: problem 'weigher' has no loss
  where     spec.yaml:10:3
  expected  a function that takes the batch and problems by name
  try       loss: program:weigher_loss
""",
    ),
    "neither_module_nor_parameters": (
        [("    module: program:Weigher\n", "")],
        """\
SpecError: problems.weigher.module: problem 'weigher' has neither a module nor parameters
  where     spec.yaml:10:3
  expected  module: program:Net, or parameters: {weight: {shape: [10]}}
""",
    ),
    "module_and_parameters": (
        [("    module: program:Weigher\n", "    module: program:Weigher\n    parameters: {weight: {}}\n")],
        """\
SpecError: problems.weigher.parameters: problem 'weigher' has a module and parameters
  where     spec.yaml:12:17
  expected  one of the two
""",
    ),
    "empty_parameters": (
        [("    module: program:Weigher\n", "    parameters: {}\n")],
        """\
SpecError: problems.weigher.parameters: the parameters of problem 'weigher' are empty
  where     spec.yaml:11:17
  expected  at least one parameter, such as {weight: {shape: [10]}}
""",
    ),
    "scheduler_without_optimizer": (
        [("    optimizer: {target: program:Sgd, lr: 1e-1, momentum: 0.9}\n", "")],
        """\
SpecError: problems.classifier.scheduler: problem 'classifier' has a scheduler and no optimizer
  where     spec.yaml:7:16
  expected  an optimizer beside the scheduler
""",
    ),
    "unknown_problem": (
        [("upper: weigher", "upper: weihger")],
        """\
SpecError: edges[0].upper: there is no problem 'weihger'
  where     spec.yaml:16:13, edge weihger -> classifier
  expected  one of classifier, weigher
  try       upper: weigher
""",
    ),
    "edge_to_itself": (
        [("upper: weigher", "upper: classifier")],
        """\
SpecError: edges[0]: the edge joins 'classifier' with itself
  where     spec.yaml:16:5, edge classifier -> classifier
  expected  two different problems
""",
    ),
    "edge_twice": (
        [("method: auto}", "method: auto}\n  - {upper: weigher, lower: classifier, flow: up}")],
        """\
SpecError: edges[1]: a second edge weigher -> classifier
  where     spec.yaml:17:5, edge weigher -> classifier
  expected  one edge a pair; the first is edges[0]
  try       remove one of the two
""",
    ),
    "early_stopping_without_validate": (
        [("  validate: {target: program:accuracy, every: 10}\n", "")],
        """\
SpecError: engine.early_stopping: early stopping watches 'accuracy', but nothing is validated
  where     spec.yaml:19:19
  expected  validate beside early_stopping
  try       validate: {target: program:accuracy, every: 100}
""",
    ),
    "no_data_for_the_batch": (
        [("    data: {target: program:digits, batch_size: 64}\n", "")],
        """\
SpecError: problems.weigher.loss: the loss of 'weigher' (program:clean_loss) takes the batch, but the problem has no data
  where     spec.yaml:12:11
  expected  data beside the loss, or a loss without the argument batch
""",
    ),
    "cycle": (
        [("method: auto}", "method: auto}\n  - {upper: classifier, lower: weigher}")],
        """\
SpecError: edges[1]: lower-to-upper flows form a cycle: classifier -> weigher -> classifier
  where     spec.yaml:17:5, edge classifier -> weigher
  expected  every problem strictly below its uppers
  try       remove one of these edges, or swap its upper and lower
""",
    ),
    "unread_flow": (
        [("program:weighted_loss", "program:clean_loss")],
        """\
SpecError: edges[0].flow: flow 'both' lets 'classifier' read 'weigher', but its loss (program:clean_loss) does not
  where     spec.yaml:16:47, edge weigher -> classifier
  expected  a parameter named weigher in that loss
  try       flow: up
""",
    ),
    "undeclared_read": (
        [("flow: both", "flow: up")],
        """\
SpecError: problems.classifier.loss: the loss of 'classifier' (program:weighted_loss) reads 'weigher', but no flow brings it
  where     spec.yaml:5:11
  expected  an edge for every problem that a loss reads
  try       flow: both on the edge weigher -> classifier
""",
    ),
    "no_edge_for_a_read": (
        [("edges:\n  - {upper: weigher, lower: classifier, flow: both, method: auto}\n", "")],
        """\
SpecError: problems.classifier.loss: the loss of 'classifier' (program:weighted_loss) reads 'weigher', but no flow brings it
  where     spec.yaml:5:11
  expected  an edge for every problem that a loss reads
  try       edges: - {upper: classifier, lower: weigher, flow: up}, or {upper: weigher, lower: classifier, flow: down}

SpecError: problems.weigher.loss: the loss of 'weigher' (program:clean_loss) reads 'classifier', but no flow brings it
  where     spec.yaml:12:11
  expected  an edge for every problem that a loss reads
  try       edges: - {upper: weigher, lower: classifier, flow: up}, or {upper: classifier, lower: weigher, flow: down}

2 errors
""",
    ),
    "unanswered_upper": (
        [("flow: both", "flow: down"), ("loss: program:clean_loss", "loss: program:own_loss")],
        """\
SpecError: edges[0].flow: 'weigher' acts on 'classifier', but no solution answers: nothing that depends on 'classifier' is read by the loss of 'weigher'
  where     spec.yaml:16:47, edge weigher -> classifier
  expected  flow: both, or up flows that lead from classifier to weigher
  try       flow: both
""",
    ),
    "loss_reads_no_problem": (
        [("loss: program:clean_loss", "loss: program:misspelt_loss")],
        """\
SpecError: problems.weigher.loss: 'program:misspelt_loss' reads 'clasifier', which is no problem
  where     spec.yaml:12:11
  expected  any of batch, classifier, weigher, or a value for it under args
  try       classifier
""",
    ),
    "validate_takes_the_batch": (
        [("program:accuracy", "program:batch_accuracy")],
        """\
SpecError: engine.validate.target: 'program:batch_accuracy' takes the batch, but there is none
  where     spec.yaml:19:22
  expected  any of classifier, weigher
""",
    ),
}


@pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES.keys())
def test_program_error(changes: list[tuple[str, str]], expected: str, tmp_path: Path) -> None:
    assert report(tmp_path, edited(*changes)) + "\n" == expected
