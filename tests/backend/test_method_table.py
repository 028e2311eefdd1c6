"""A method is five places; none may be missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from betty.backends.torch import methods as backend
from betty.ir.methods import ESTIMATORS, INVERSES, PRODUCTS, TRAJECTORIES, complete
from tests.support.methods import ESTIMATOR_CASES, IMPLICIT_CASES, TRAJECTORY_CASES

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_every_pair_of_an_inverse_and_a_product_is_a_case() -> None:
    pairs = {(inverse, product) for inverse in INVERSES for product in PRODUCTS}
    assert {(case.solver, case.product) for case in IMPLICIT_CASES} == pairs


def test_every_trajectory_method_is_a_case() -> None:
    assert {case.solver for case in TRAJECTORY_CASES} == set(TRAJECTORIES)


def test_every_estimator_has_tests_of_its_own() -> None:
    """Those that draw are tested by their means, which no table of exact cases can hold."""
    drawing = {"reinforce": "test_estimators.py", "evolution_strategies": "test_evolution.py"}
    assert {case.solver for case in ESTIMATOR_CASES} | set(drawing) == set(ESTIMATORS)
    for name, file in drawing.items():
        assert name in (Path(__file__).parent / file).read_text(encoding="utf-8")


def test_the_backend_knows_the_same_methods() -> None:
    assert set(backend.INVERSES) == set(INVERSES)
    assert set(backend.PRODUCTS) == set(PRODUCTS)
    assert set(backend.ESTIMATORS) == set(ESTIMATORS)


@pytest.mark.parametrize("name", sorted(INVERSES))
def test_options_and_defaults_of_an_inverse_agree(name: str) -> None:
    """The compiler's defaults, taken from its table, make the same record as the backend's own."""
    assert backend.inverse(complete(name, INVERSES[name], {})) == backend.INVERSES[name]()


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_options_and_defaults_of_a_product_agree(name: str) -> None:
    assert backend.product(complete(name, PRODUCTS[name], {})) == backend.PRODUCTS[name]()


@pytest.mark.parametrize("name", sorted([*INVERSES, *PRODUCTS, *TRAJECTORIES, *ESTIMATORS]))
def test_every_method_has_a_section_in_the_docs(name: str) -> None:
    headings = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert [line for line in headings if f"`{name}`" in line], f"docs/methods.md has no heading with `{name}`"


@pytest.mark.parametrize("name", sorted(backend.ESTIMATORS))
def test_options_and_defaults_of_an_estimator_agree(name: str) -> None:
    assert backend.estimator(complete(name, ESTIMATORS[name], {})) == backend.ESTIMATORS[name]()


def test_every_class_of_the_backend_is_exported() -> None:
    classes = [*backend.INVERSES.values(), *backend.PRODUCTS.values(), *backend.ESTIMATORS.values()]
    assert {item.__name__ for item in classes} <= set(backend.__all__)
