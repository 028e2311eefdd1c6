"""A method is five places; none may be missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from betty.backends.torch import methods as backend
from betty.ir.methods import INVERSES, PRODUCTS, TRAJECTORIES, complete
from tests.support.methods import IMPLICIT_CASES, TRAJECTORY_CASES

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_every_pair_of_an_inverse_and_a_product_is_a_case() -> None:
    pairs = {(inverse, product) for inverse in INVERSES for product in PRODUCTS}
    assert {(case.solver, case.product) for case in IMPLICIT_CASES} == pairs


def test_every_trajectory_method_is_a_case() -> None:
    assert {case.solver for case in TRAJECTORY_CASES} == set(TRAJECTORIES)


def test_the_backend_knows_the_same_inverses_and_products() -> None:
    assert set(backend.INVERSES) == set(INVERSES)
    assert set(backend.PRODUCTS) == set(PRODUCTS)


@pytest.mark.parametrize("name", sorted(INVERSES))
def test_options_and_defaults_of_an_inverse_agree(name: str) -> None:
    """The compiler's defaults, taken from its table, make the same record as the backend's own."""
    assert backend.inverse(complete(name, INVERSES[name], {})) == backend.INVERSES[name]()


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_options_and_defaults_of_a_product_agree(name: str) -> None:
    assert backend.product(complete(name, PRODUCTS[name], {})) == backend.PRODUCTS[name]()


@pytest.mark.parametrize("name", sorted([*INVERSES, *PRODUCTS, *TRAJECTORIES]))
def test_every_method_has_a_section_in_the_docs(name: str) -> None:
    headings = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert [line for line in headings if f"`{name}`" in line], f"docs/methods.md has no heading with `{name}`"


def test_every_class_of_the_backend_is_exported() -> None:
    classes = [*backend.INVERSES.values(), *backend.PRODUCTS.values()]
    assert {item.__name__ for item in classes} <= set(backend.__all__)
