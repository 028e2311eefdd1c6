"""One test on the exact text of every mistake that a single field can hold."""

# ruff: noqa: E501  (messages stand as they are shown)

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spec.support import edited, report

CASES = {
    "unknown_field": (
        [("unroll: 2", "unrol: 2")],
        """\
SpecError: problems.classifier.unrol: unknown field 'unrol'
  where     spec.yaml:9:5
  expected  one of module, parameters, loss, data, optimizer, initial, scheduler, unroll, precision, scaler, activation_checkpointing, gradient_accumulation, gradient_clipping, warm_up, example_weights, shard_parameters
  try       unroll
""",
    ),
    "unknown_root_field": (
        [("edges:", "edgs:")],
        """\
SpecError: edgs: unknown field 'edgs'
  where     spec.yaml:15:1
  expected  one of name, problems, edges, engine
  try       edges
""",
    ),
    "unknown_field_of_engine": (
        [("engine:\n", "engine:\n  iteration: 5\n")],
        """\
SpecError: engine.iteration: unknown field 'iteration'
  where     spec.yaml:18:3
  expected  one of iterations, device, seed, precision, scaler, on_nonfinite, validate, early_stopping, roll_back, memory, compile, log, checkpoint, strategy, adjoints, backend, and 1 more
  try       iterations
""",
    ),
    "memory_without_a_known_unit": (
        [("engine:\n", "engine:\n  memory: 4 gigs\n")],
        """\
SpecError: engine.memory: found '4 gigs' (text)
  where     spec.yaml:18:11
  expected  a number with a unit such as 512 MiB or 4 GB, or a whole number of bytes
""",
    ),
    "no_memory": (
        [("engine:\n", "engine:\n  memory: 0\n")],
        """\
SpecError: engine.memory: found 0 (a whole number)
  where     spec.yaml:18:11
  expected  a number with a unit such as 512 MiB or 4 GB, or a whole number of bytes
""",
    ),
    "missing_name": (
        [("name: reweight\n", "")],
        """\
SpecError: name: missing field 'name'
  where     spec.yaml:1:1
  expected  Name of the program
""",
    ),
    "missing_problems": (
        [("problems:", "problem:")],
        """\
SpecError: problems: missing field 'problems'
  where     spec.yaml:1:1
  expected  The problems by name

SpecError: problem: unknown field 'problem'
  where     spec.yaml:2:1
  expected  one of name, problems, edges, engine
  try       problems

2 errors
""",
    ),
    "missing_end_of_edge": (
        [("lower: classifier, ", "")],
        """\
SpecError: edges[0].lower: missing field 'lower'
  where     spec.yaml:16:5
  expected  Name of the lower problem
""",
    ),
    "missing_target": (
        [("{target: program:Net, args: {width: 8}}", "{args: {width: 8}}")],
        """\
SpecError: problems.classifier.module: missing field 'target'
  where     spec.yaml:4:13
  expected  module:name (a file beside the spec, or a trusted package) or a dotted name such as torch.optim.SGD
""",
    ),
    "text_for_a_number": (
        [("unroll: 2", 'unroll: "2"')],
        """\
SpecError: problems.classifier.unroll: found '2' (text)
  where     spec.yaml:9:13
  expected  a whole number
  try       2, without quotes
""",
    ),
    "fraction_for_a_whole_number": (
        [("iterations: 100", "iterations: 1e2")],
        """\
SpecError: engine.iterations: found 100.0 (a number)
  where     spec.yaml:18:15
  expected  a whole number
  try       100
""",
    ),
    "truth_for_a_number": (
        [("unroll: 2", "unroll: true")],
        """\
SpecError: problems.classifier.unroll: found true
  where     spec.yaml:9:13
  expected  a whole number
""",
    ),
    "word_for_truth": (
        [("batch_size: 64}", "batch_size: 64, shuffle: yes}")],
        """\
SpecError: problems.classifier.data.shuffle: found 'yes' (text)
  where     spec.yaml:6:81
  expected  true or false
  try       true
""",
    ),
    "mapping_for_a_number": (
        [("unroll: 2", "unroll: {every: 2}")],
        """\
SpecError: problems.classifier.unroll: found a mapping
  where     spec.yaml:9:13
  expected  a whole number
""",
    ),
    "list_for_a_mapping": (
        [("checkpoint: {every: 20}", "checkpoint: [20]")],
        """\
SpecError: engine.checkpoint: found a list
  where     spec.yaml:21:15
  expected  a mapping
""",
    ),
    "mapping_for_a_list": (
        [("  - {upper: weigher, lower: classifier, flow: both, method: auto}", "  upper: weigher")],
        """\
SpecError: edges: found a mapping
  where     spec.yaml:16:3
  expected  a list
""",
    ),
    "nothing_for_a_mapping": (
        [("engine:", "engine: null\nx:")],
        """\
SpecError: engine: found nothing
  where     spec.yaml:17:1
  expected  a mapping

SpecError: x: unknown field 'x'
  where     spec.yaml:18:1
  expected  one of name, problems, edges, engine

2 errors
""",
    ),
    "number_for_a_target": (
        [("program:weighted_loss", "3")],
        """\
SpecError: problems.classifier.loss: found 3 (a whole number)
  where     spec.yaml:5:11
  expected  a target: module:name, a dotted name, or {target: ..., args: {...}}
""",
    ),
    "word_for_a_target": (
        [("program:weighted_loss", "weighted_loss")],
        """\
SpecError: problems.classifier.loss: 'weighted_loss' is not a target
  where     spec.yaml:5:11
  expected  module:name, such as program:Net, or a dotted name, such as torch.optim.SGD
  try       program:weighted_loss, if it stands in program.py beside the spec
""",
    ),
    "too_small": (
        [("iterations: 100", "iterations: 0")],
        """\
SpecError: engine.iterations: 0 is out of range
  where     spec.yaml:18:15
  expected  at least 1
""",
    ),
    "not_above_zero": (
        [("unroll: 2", "gradient_clipping: 0.0")],
        """\
SpecError: problems.classifier.gradient_clipping: 0.0 is out of range
  where     spec.yaml:9:24
  expected  more than 0
""",
    ),
    "not_finite": (
        [("unroll: 2", "gradient_clipping: .inf")],
        """\
SpecError: problems.classifier.gradient_clipping: inf is out of range
  where     spec.yaml:9:24
  expected  a finite number
""",
    ),
    "bad_flow": (
        [("flow: both", "flow: bth")],
        """\
SpecError: edges[0].flow: 'bth' is not a flow
  where     spec.yaml:16:47, edge weigher -> classifier
  expected  one of down, up, both
  try       both
""",
    ),
    "bad_precision": (
        [("engine:\n", "engine:\n  precision: fp61\n")],
        """\
SpecError: engine.precision: 'fp61' is not a precision
  where     spec.yaml:18:14
  expected  one of fp32, bf16, fp16, fp64
  try       fp64
""",
    ),
    "bad_device": (
        [("engine:\n", "engine:\n  device: gpu\n")],
        """\
SpecError: engine.device: 'gpu' is not a device
  where     spec.yaml:18:11
  expected  one of auto, cpu, cuda, mps, xpu, or one of several such as cuda:1
  try       cuda
""",
    ),
    "bad_run_name": (
        [("name: reweight", "name: learning to reweight")],
        """\
SpecError: name: 'learning to reweight' is not a name
  where     spec.yaml:1:7
  expected  letters, digits, '-', '_' and '.'
  try       learning-to-reweight
""",
    ),
    "name_of_a_problem": (
        [("edges:\n", "  my-net: {parameters: {w: {}}, loss: program:own_loss}\nedges:\n")],
        """\
SpecError: problems.my-net: 'my-net' is not a name
  where     spec.yaml:15:3
  expected  letters, digits and underscores, as losses name it as an argument
  try       my_net
""",
    ),
    "name_is_a_keyword": (
        [("edges:\n", "  lambda: {parameters: {w: {}}, loss: program:own_loss}\nedges:\n")],
        """\
SpecError: problems.lambda: 'lambda' is not a name
  where     spec.yaml:15:3
  expected  letters, digits and underscores, as losses name it as an argument
  try       lambda_
""",
    ),
    "name_is_batch": (
        [("edges:\n", "  batch: {parameters: {w: {}}, loss: program:own_loss}\nedges:\n")],
        """\
SpecError: problems.batch: the name 'batch' means the batch
  where     spec.yaml:15:3
  expected  another name
""",
    ),
    "parameter_init": (
        [("    module: program:Weigher\n", "    parameters: {weight: {shape: [3], init: one}}\n")],
        """\
SpecError: problems.weigher.parameters.weight.init: found 'one' (text)
  where     spec.yaml:11:45
  expected  a number, or one of zeros, ones, normal, uniform
  try       ones
""",
    ),
    "parameter_shape": (
        [("    module: program:Weigher\n", "    parameters: {weight: {shape: [3, -1]}}\n")],
        """\
SpecError: problems.weigher.parameters.weight.shape[1]: -1 is out of range
  where     spec.yaml:11:38
  expected  at least 0
""",
    ),
    "option_given_twice": (
        [("args: {lr: 0.01}", "lr: 0.1, args: {lr: 0.01}")],
        """\
SpecError: problems.weigher.optimizer.lr: 'lr' stands both in args and beside the target
  where     spec.yaml:14:38
  expected  one of the two
""",
    ),
}


@pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES.keys())
def test_field_error(changes: list[tuple[str, str]], expected: str, tmp_path: Path) -> None:
    assert report(tmp_path, edited(*changes)) + "\n" == expected
