"""The command line, as a user types it: output, files, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from betty.cli import main
from betty.ir.text import parse_graph, parse_plan
from tests.engine.conftest import spec

__all__ = ["spec"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def betty(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else int(code is not None)), out, err

    return run


def test_compile_prints_the_plan(betty: Run, spec: Path) -> None:
    code, out, err = betty("compile", spec)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "plan blobs   2 problems · 1 edge · fp32 · cpu"
    assert lines[1] == "repeat 12"
    text = " ".join(out.split())
    assert "classifier every step batch -> loss -> backward -> SGD 83 params" in text
    assert "adjoint classifier ∂L_weigher/∂classifier" in text
    assert "respond classifier identity + finite_difference" in text
    assert "into weigher" in text


def test_compile_as_json(betty: Run, spec: Path) -> None:
    code, out, _ = betty("compile", spec, "--json", "--set", "edges.0.method=auto")
    found = json.loads(out)
    assert code == 0 and found["order"] == ["classifier", "weigher"]
    assert found["problems"][0]["facts"]["parameters"] == 83
    assert found["edges"][0]["chosen"] == "auto" and found["edges"][0]["reason"]
    assert found["steps"][1]["instructions"][2]["into"] == [{"problem": "weigher", "slot": ""}]
    assert found["steps"][0]["instructions"][1]["work"] > 0


def test_emitted_text_can_be_parsed(betty: Run, spec: Path) -> None:
    graph = parse_graph(betty("compile", spec, "--emit", "graph")[1])
    plan = parse_plan(betty("compile", spec, "--emit", "plan")[1])
    assert [problem.name for problem in graph.problems] == ["classifier", "weigher"]
    assert [item.op for item in plan.step("weigher").instructions] == ["draw", "differentiate", "respond", "update"]


STATIC = """
import sys
from betty.cli import main
try:
    main(["compile", sys.argv[1], "--static"])
except SystemExit as ended:
    assert not ended.code, ended.code
loaded = [name for name in sys.modules if name == "torch" or name.endswith("program")]
assert not loaded, loaded
"""


def test_static_imports_neither_torch_nor_the_program(spec: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STATIC, str(spec)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "? params" in done.stdout


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<"), ("dot", b""), ("mmd", b"---")])
def test_render(betty: Run, spec: Path, ending: str, start: bytes) -> None:
    code, _, err = betty("compile", spec, "--render", f"graph.{ending}")
    assert code == 0 and f"graph drawn in graph.{ending}" in err
    drawn = Path(f"graph.{ending}").read_bytes()
    assert drawn.lstrip().startswith(start) and b"weigher" in drawn


def test_render_without_a_file_takes_the_program_s_name(betty: Run, spec: Path) -> None:
    assert betty("compile", "--render", spec)[0] == 0
    assert Path("blobs.svg").exists()
    Path("blobs.svg").unlink()
    assert betty("compile", spec, "--render")[0] == 0
    assert Path("blobs.svg").exists()


def test_mistakes_end_with_a_report_and_code_2(betty: Run, spec: Path) -> None:
    spec.write_text(spec.read_text().replace("lr: 0.1,", "lrr: 0.1,").replace("lower: classifier", "lower: clasifier"))
    code, out, err = betty("compile", spec)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert re.search(r"spec\.yaml:7:\d+", err) and "try" in err and "lr" in err
    assert "edges[0].lower: there is no problem 'clasifier'" in err or "clasifier" in err
    assert err.rstrip().endswith("2 errors")


def test_set_is_checked_like_the_file(betty: Run, spec: Path) -> None:
    code, _, err = betty("run", spec, "--set", "engine.iteratons=3")
    assert code == 2 and "iterations" in err and "--set engine.iteratons=3" in err


def test_run_trains_and_says_where(betty: Run, spec: Path) -> None:
    code, out, err = betty("run", spec, "--set", "engine.validate={target: program:accuracy, every: 6}")
    assert code == 0
    assert out.startswith("plan blobs")
    assert re.search(r"12 iterations in \d+\.\d s .*validate\.accuracy 0\.\d+", out)
    assert out.rstrip().endswith("written to runs/blobs-1")
    assert [line.split()[:2] for line in err.splitlines()] == [["iteration", "6"], ["iteration", "12"]]


def test_run_profile_measures_every_instruction(betty: Run, spec: Path) -> None:
    code, out, _ = betty("run", spec, "--profile", "--out", "profiled")
    assert code == 0
    profile = out.rpartition("plan blobs")[2]
    rows = [line.split() for line in profile.splitlines()]
    measured = [row[0] for row in rows if " ms " in f" {' '.join(row)} "]
    lower, upper = ["classifier", "draw", "differentiate", "update"], ["weigher", "draw", "differentiate", "respond"]
    assert measured == [*lower, *upper, "update"]


def test_errors_in_a_loss_show_the_user_s_lines_only(betty: Run, spec: Path) -> None:
    program = spec.parent / "program.py"
    program.write_text(program.read_text() + "\n\ndef broken(batch, classifier):\n    return classifier(batch[1])\n")
    code, _, err = betty("run", spec, "--set", "problems.weigher.loss=program:broken")
    assert code == 1
    assert "at program.py:" in err and "in broken: return classifier(batch[1])" in err
    assert "in instruction %1 (differentiate) of problem 'weigher', step 1" in err
    assert "executor.py" not in err


def test_schema_is_json(betty: Run) -> None:
    code, out, _ = betty("schema")
    assert code == 0 and {"problems", "edges", "engine"} <= set(json.loads(out)["properties"])


def test_version_and_help(betty: Run) -> None:
    from betty import __version__

    assert betty("--version")[1].strip() == __version__
    code, out, _ = betty("--help")
    assert code == 0 and all(command in out for command in ("compile", "run", "schema"))


def heed_interrupts() -> None:
    """A shell that starts a job in the background lets it ignore Ctrl-C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c_writes_what_there_is(spec: Path) -> None:
    command = [sys.executable, "-m", "betty", "run", str(spec), "--set", "engine.iterations=10000000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=heed_interrupts,  # noqa: PLW1509 - no threads are running in the child yet
    ) as child:
        metrics, limit = Path("runs/blobs-1/metrics.jsonl"), time.monotonic() + 120
        while (not metrics.exists() or not metrics.read_text()) and time.monotonic() < limit:
            time.sleep(0.1)  # until the run is under way
        child.send_signal(signal.SIGINT)
        try:
            out, err = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 130, err
    assert "interrupted" in out and "Traceback" not in err
    assert Path("runs/blobs-1/weights.pt").exists()


CHAIN = """
import torch


def loss(**problems):
    return sum(problem.parameters["w"].square().sum() for problem in problems.values())
"""


@pytest.mark.slow
def test_a_chain_of_a_thousand_problems_compiles(betty: Run, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(CHAIN)
    problem = "{parameters: {w: {shape: [2]}}, loss: program:loss, optimizer: {target: torch.optim.SGD, lr: 0.1}}"
    lines = ["name: chain", "problems:", *(f"  p{index}: {problem}" for index in range(1000)), "edges:"]
    lines += [f"  - {{upper: p{index + 1}, lower: p{index}, method: cg}}" for index in range(999)]
    (tmp_path / "spec.yaml").write_text("\n".join([*lines, "engine: {device: cpu}"]))
    start = time.perf_counter()
    code, out, err = betty("compile", tmp_path / "spec.yaml")
    assert code == 0, err
    assert out.startswith("plan chain   1,000 problems · 999 edges")
    print(f"a chain of 1,000 problems compiles in {time.perf_counter() - start:.1f} s")
