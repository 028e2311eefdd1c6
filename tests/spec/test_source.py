"""YAML text as plain data with positions."""

from __future__ import annotations

import math

import pytest

from betty.spec.source import read_yaml, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-2", -2),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("1_000", "1_000"),
        ("9" * 6000, "9" * 6000),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(scalar(".nan"))


def test_quotes_make_text() -> None:
    assert read_yaml("a: '1'\nb: \"true\"\nc: !!str 3\n", "f").data == {"a": "1", "b": "true", "c": "3"}


def test_positions_of_keys_and_values() -> None:
    read = read_yaml("a:\n  - {b: 1, c: é, d: 2}\n  - x\ne:\n", "f.yaml")
    places = read.positions
    assert places.place(("a",), key=True).text == "f.yaml:1:1"
    assert places.place(("a", 0, "b")).text == "f.yaml:2:9"
    assert places.place(("a", 0, "d"), key=True).text == "f.yaml:2:18"
    assert places.place(("a", 1)).text == "f.yaml:3:5"
    assert places.place(("e",)).text == "f.yaml:4:1", "an empty value is where its key is"
    assert places.place(("a", 0, "missing")).text == "f.yaml:2:5", "a missing field is at its mapping"


def test_anchors_and_merges() -> None:
    read = read_yaml("base: &b {lr: 1e-1, momentum: 0.9}\nnew:\n  <<: *b\n  lr: 2.0\nsame: *b\n", "f")
    assert not read.diagnostics
    assert read.data["new"] == {"lr": 2.0, "momentum": 0.9}
    assert read.data["same"] == {"lr": 0.1, "momentum": 0.9}
    assert read.positions.place(("new", "momentum")).text == "f:1:31"
    assert read.positions.place(("same",)).text == "f:5:7"


def test_merge_of_a_list_prefers_the_first() -> None:
    text = "a: &a {x: 1}\nb: &b {x: 2, y: 3}\nc: {<<: [*a, *b]}\n"
    assert read_yaml(text, "f").data["c"] == {"x": 1, "y": 3}


TAB = "found character that cannot start any token while scanning for the next token"
DUPLICATE = "the key 'a' stands here again"


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("a: 1\nb: 2\na: 3\n", DUPLICATE, "f:3:1"),
        ("a: [1,\nb: 2\n", "not YAML: did not find expected ',' or ']' while parsing a flow sequence", "f:3:1"),
        ("a: b: c\n", "not YAML: mapping values are not allowed in this context", "f:1:5"),
        ("a:\n\t- b\n", f"not YAML: {TAB}", "f:2:1"),
        ("a: \x00\n", "not YAML: character '\\x00' is not allowed", "f:1:4"),
        ("a: *nobody\n", "alias '*nobody' has no anchor '&nobody' that ends before it", "f:1:4"),
        ("a: &a [*a]\n", "alias '*a' has no anchor '&a' that ends before it", "f:1:8"),
        ("a: !!python/name:os.system\n", "tag 'tag:yaml.org,2002:python/name:os.system' is not allowed", "f:1:4"),
        ("1: x\n", "a key is a whole number", "f:1:1"),
        ("? [a]\n: x\n", "a key is a list", "f:1:3"),
        ("a: {<<: 3}\n", "'<<' merges a mapping or a list of mappings", "f:1:9"),
        ("a: 1\n---\nb: 2\n", "a second document begins here", "f:2:1"),
        ("", "the file is empty", "f:1:1"),
        ("# nothing\n", "the file is empty", "f:1:1"),
        ("a: " + "[" * 100 + "]" * 100, "more than 64 levels of nesting", "f:1:68"),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_mistakes_in_the_form(text: str, message: str, where: str) -> None:
    (wrong,) = read_yaml(text, "f").diagnostics
    assert (wrong.message, wrong.where) == (message, where)


def test_nested_aliases_cannot_explode() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (wrong,) = read_yaml("\n".join(lines), "f").diagnostics
    assert wrong.message == "more than 1000000 values once aliases are written out"


def test_a_deep_text_is_refused_quickly() -> None:
    (wrong,) = read_yaml("[" * 1_000_000, "f").diagnostics
    assert wrong.code == "too-large"


def test_every_duplicate_is_reported() -> None:
    read = read_yaml("a: 1\na: 2\nb: {c: 1, c: 2}\na: 3\n", "f")
    assert [one.where for one in read.diagnostics] == ["f:2:1", "f:3:11", "f:4:1"]
    assert read.data == {"a": 1, "b": {"c": 1}}
