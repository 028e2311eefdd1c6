"""2,000 damaged specs: each is a right spec or gives one clean report, whichever way it is compiled."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from betty.ir.diagnostics import SpecError
from betty.ir.graph import Graph
from betty.spec.dump import to_yaml
from betty.spec.frontend import compile_source
from betty.spec.load import load
from tests.spec.mutations import KEYS, VALUES, damaged_data, damaged_text
from tests.spec.support import write

MANY = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True)
def long_numbers() -> Any:
    """YAML can hold numbers that Python refuses to print; the writer of these tests must print them."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    write(folder)
    return folder


def check(path: Path, static: bool, overrides: list[str] | None = None) -> None:
    """The file at ``path`` gives a graph, or a report in the order of the file without a traceback."""
    try:
        program = compile_source(path, overrides or [], static=static)
    except SpecError as error:
        check_report(error)
    else:
        assert isinstance(program.graph, Graph)
        assert (program.resolved is None) is static
        check_round_trip(path, program.document.spec)


def check_report(error: SpecError) -> None:
    text = str(error)
    assert error.diagnostics
    assert "Traceback" not in text
    assert "pydantic" not in text
    for one in error.diagnostics:
        assert one.message
        assert "\n" not in one.message
        assert one.where
    lines = [re.search(r"spec\.yaml:(\d+):(\d+)", one.where) for one in error.diagnostics]
    places = [(int(found[1]), int(found[2])) for found in lines if found]
    assert places == sorted(places)
    assert len(set(error.diagnostics)) == len(error.diagnostics)


def check_round_trip(path: Path, spec: Any) -> None:
    copy = path.with_name("again.yaml")
    copy.write_text(to_yaml(spec), encoding="utf-8")
    assert to_yaml(load(copy).spec) == to_yaml(spec), "compared as text, since nan is not equal to itself"


def dumped(data: Any) -> str:
    return yaml.safe_dump(data, allow_unicode=False)


@MANY
@given(data=damaged_data())
def test_damaged_values(folder: Path, data: Any) -> None:
    (folder / "spec.yaml").write_text(dumped(data), encoding="utf-8")
    check(folder / "spec.yaml", static=False)


@MANY
@given(data=damaged_data())
def test_damaged_values_without_imports(folder: Path, data: Any) -> None:
    (folder / "spec.yaml").write_text(dumped(data), encoding="utf-8")
    check(folder / "spec.yaml", static=True)


@MANY
@given(text=damaged_text(), static=st.booleans())
def test_damaged_text(folder: Path, text: str, static: bool) -> None:
    (folder / "spec.yaml").write_bytes(text.encode("utf-8", errors="surrogatepass"))
    check(folder / "spec.yaml", static)


@MANY
@given(data=damaged_data(), static=st.booleans())
def test_damaged_mappings(data: Any, static: bool) -> None:
    if isinstance(data, dict):
        with contextlib.suppress(SpecError):
            assert compile_source(data, static=static).graph.problems


STEPS = st.one_of(st.sampled_from(KEYS), st.integers(0, 2).map(str), st.integers(0, 2).map("[{}]".format))


@settings(MANY, max_examples=120)
@given(path=st.lists(STEPS, min_size=1, max_size=5), value=VALUES, static=st.booleans())
def test_damaging_overrides(folder: Path, path: list[str], value: Any, static: bool) -> None:
    write(folder)
    text = "" if value is None else dumped(value).removesuffix("...\n")
    check(folder / "spec.yaml", static, [f"{'.'.join(path).replace('.[', '[')}={text}"])
