"""Documents from files, mappings and models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from betty.ir.diagnostics import SpecError
from betty.spec.fields import Target
from betty.spec.load import load
from betty.spec.models import EdgeSpec, EngineSpec, ParameterSpec, ProblemSpec, Spec, ValidateSpec
from tests.spec.support import write


def refusal(source: Any) -> str:
    with pytest.raises(SpecError) as error:
        load(source)
    return str(error.value)


def test_a_document_knows_where_its_fields_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = load(write(tmp_path))
    assert document.path == tmp_path / "spec.yaml"
    assert document.folder == tmp_path
    assert document.text.startswith("name: reweight")
    assert document.locate(("edges", 0, "method")) == "spec.yaml:16:61"
    assert document.locate(("edges", 0, "method"), key=True) == "spec.yaml:16:53"
    assert document.locate(("problems", "classifier", "optimizer", "args", "lr")) == "spec.yaml:7:42"
    assert document.locate(("problems", "weigher", "unroll")) == "spec.yaml:10:3"
    assert document.locate(()) == "spec.yaml:1:1"


def test_a_missing_file_names_a_similar_one(tmp_path: Path) -> None:
    write(tmp_path)
    assert refusal(tmp_path / "spce.yaml").replace(str(tmp_path), "DIR") == (
        "SpecError: there is no such file\n"
        "  where     DIR/spce.yaml\n"
        "  expected  a YAML file\n"
        "  try       DIR/spec.yaml"
    )


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    write(tmp_path)
    assert refusal(str(tmp_path)).replace(str(tmp_path), "DIR") == (
        "SpecError: this is a folder\n  where     DIR\n  expected  a YAML file\n  try       DIR/spec.yaml"
    )


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_bytes(b"name: \xff\n")
    assert "not UTF-8 text: byte 6 is invalid start byte" in refusal(tmp_path / "spec.yaml")


def test_a_path_that_no_system_has() -> None:
    assert "SpecError: the file cannot be read: embedded null byte" in refusal("a\0b")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path).spec.name == "reweight"


NO_MAPPING = """\
the spec is a list
  where     DIR/spec.yaml:1:1
  expected  a mapping with name, problems, edges and engine"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty\n  where     DIR/spec.yaml:1:1\n  try       begin with 'name:' and 'problems:'"),
        ("- a\n", NO_MAPPING),
        (
            "a: [\n",
            "not YAML: did not find expected node content while parsing a flow node\n  where     DIR/spec.yaml:2:1",
        ),
    ],
)
def test_files_without_a_mapping(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(write(tmp_path, text)).replace(str(tmp_path), "DIR") == f"SpecError: {message}"


class Net:
    def parameters(self) -> list[float]:
        return []

    def named_parameters(self) -> list[tuple[str, float]]:
        return []


def loss(batch: object, net: object) -> float:
    return 0.0


def test_a_spec_of_live_objects() -> None:
    net, data = Net(), [1, 2]
    problem = ProblemSpec(module=net, loss=loss, data=data)  # type: ignore[arg-type]
    document = load(Spec(name="live", problems={"net": problem}))
    found = document.spec.problems["net"]
    assert found.module is not None
    assert found.module.target is net
    assert found.data is not None
    assert found.data.target is data
    assert document.locate(("problems", "net")) == ""


def test_a_mapping_may_hold_models() -> None:
    problem = ProblemSpec(parameters={"w": ParameterSpec(shape=[2])}, loss=Target(target=loss))
    document = load({"name": "x", "problems": {"net": problem}, "engine": EngineSpec(iterations=3)}, ["engine.seed=4"])
    assert (document.spec.engine.iterations, document.spec.engine.seed) == (3, 4)


def test_mistakes_in_a_mapping_have_no_place() -> None:
    source = {
        "name": "x",
        "problems": {"a": {"parameters": {"w": {}}, "loss": loss}, "b": {"parameters": {"w": {}}, "loss": loss}},
        "edges": [{"upper": "a", "lower": "b", "method": "cgg"}],
        "engin": {},
    }
    assert refusal(source) == (
        "SpecError: edges[0].method: 'cgg' is not a hypergradient method\n"
        "  where     edge a -> b\n"
        "  expected  one of auto, cg, dense, evolution_strategies, finite_difference, forward_mode, identity, "
        "minres, neumann, nystrom, penalty, reinforce, sama, unrolled\n"
        "  try       method: cg\n\n"
        "SpecError: engin: unknown field 'engin'\n"
        "  expected  one of name, problems, edges, engine\n"
        "  try       engine\n\n"
        "2 errors"
    )


def test_keys_that_are_no_text_are_refused_in_python_too() -> None:
    assert "a key is a whole number" in refusal({"name": "x", "problems": {3: {}}})


def test_shapes_may_be_tuples() -> None:
    assert ParameterSpec(shape=(2, 3)).shape == [2, 3]  # type: ignore[arg-type]


def test_the_validation_is_written_validate() -> None:
    engine = EngineSpec(validate=ValidateSpec(target="program:accuracy", every=5))
    assert engine.validation is not None
    assert engine.validation.every == 5


def test_models_are_immutable() -> None:
    edge = EdgeSpec(upper="a", lower="b")
    with pytest.raises(ValueError, match="frozen"):
        edge.upper = "c"  # type: ignore[misc]


def test_no_torch_for_specs(tmp_path: Path) -> None:
    code = (
        "import sys; from betty.spec.frontend import compile_source; from betty.spec.schema import json_schema; "
        f"compile_source({str(write(tmp_path))!r}); json_schema(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
