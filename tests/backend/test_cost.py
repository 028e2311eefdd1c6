"""The work of one upper step grows with the edges, although the paths double with every diamond."""

from __future__ import annotations

import pytest

from betty.ir.methods import preset
from tests.support.compare import assert_close, flat
from tests.support.dense import exact_hypergradient
from tests.support.diamonds import METHODS, diamond_program, generate_diamonds, work
from tests.support.quadratics import diamonds

COUNTS = [1, 2, 4, 8]


@pytest.mark.parametrize("count", COUNTS)
def test_the_toy_has_4n_plus_2_edges(count: int) -> None:
    assert len(diamonds(count)) == 4 * count + 2


@pytest.mark.parametrize(
    ("method", "each"),
    # A loss is evaluated for the pair of a difference, or once for all products of a linearisation.
    [("identity + finite_difference", 2), ("cg(5) + reverse", 1)],
)
@pytest.mark.parametrize("count", COUNTS)
def test_every_problem_is_answered_for_once(count: int, method: str, each: int) -> None:
    found = work(diamond_program(count, METHODS[method]))
    lowers = 3 * count + 1
    assert found == {"draw": 1, "differentiate": 1, "update": 1, "respond": lowers, "evaluations": 1 + each * lowers}


@pytest.mark.parametrize("count", [1, 4])
def test_and_the_sum_over_all_paths_is_exact(count: int) -> None:
    built = diamond_program(count, preset("cg", {"tolerance": 1e-12}))
    points = {name: flat(problem.parameters) for name, problem in built.program.problems.items()}
    found = flat(built.executor.hypergradient("top").gradient)
    assert_close(found, exact_hypergradient(generate_diamonds(count), points), 1e-9)
