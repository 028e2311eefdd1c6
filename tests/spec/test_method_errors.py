"""One test on the exact text of every mistake in the method of an edge."""

from __future__ import annotations

from pathlib import Path

import pytest

from betty.ir.methods import AUTO, PRESETS
from tests.spec.support import edited, report

CASES = {
    "method_name": (
        [("method: auto", "method: neuman")],
        """\
SpecError: edges[0].method: 'neuman' is not a hypergradient method
  where     spec.yaml:16:61, edge weigher -> classifier
  expected  one of ALL
  try       method: neumann
""",
    ),
    "method_is_a_product": (
        [("method: auto", "method: forward")],
        """\
SpecError: edges[0].method: 'forward' is a product, which needs an inverse beside it
  where     spec.yaml:16:61, edge weigher -> classifier
  expected  one of ALL
  try       method: {inverse: identity, product: forward}
""",
    ),
    "method_type": (
        [("method: auto", "method: 3")],
        """\
SpecError: edges[0].method: found 3 (a whole number)
  where     spec.yaml:16:61, edge weigher -> classifier
  expected  a name, {name: ..., options}, or {inverse: ..., product: ...}
""",
    ),
    "method_without_name": (
        [("method: auto", "method: {nam: cg}")],
        """\
SpecError: edges[0].method: a method needs a name, or an inverse and a product
  where     spec.yaml:16:61, edge weigher -> classifier
  expected  a name, {name: ..., options}, or {inverse: ..., product: ...}
  try       name
""",
    ),
    "method_option": (
        [("method: auto", "method: {name: cg, iteration: 3}")],
        """\
SpecError: edges[0].method.iteration: method 'cg' has no option 'iteration'
  where     spec.yaml:16:72, edge weigher -> classifier
  expected  one of iterations, tolerance, damping, precondition, warm_start
  try       iterations
""",
    ),
    "method_without_options": (
        [("method: auto", "method: {name: auto, iterations: 3}")],
        """\
SpecError: edges[0].method.iterations: method 'auto' has no option 'iterations'
  where     spec.yaml:16:74, edge weigher -> classifier
  expected  no options
""",
    ),
    "method_option_type": (
        [("method: auto", "method: {name: cg, iterations: 3.5}")],
        """\
SpecError: edges[0].method.iterations: found 3.5 (a number)
  where     spec.yaml:16:84, edge weigher -> classifier
  expected  a whole number, at least 1: most conjugate-gradient steps
""",
    ),
    "method_option_range": (
        [("method: auto", "method: {name: cg, iterations: 0}")],
        """\
SpecError: edges[0].method.iterations: 0 is out of range
  where     spec.yaml:16:84, edge weigher -> classifier
  expected  a whole number, at least 1: most conjugate-gradient steps
""",
    ),
    "method_inverse": (
        [("method: auto", "method: {inverse: cgg}")],
        """\
SpecError: edges[0].method.inverse: 'cgg' is not a known inverse
  where     spec.yaml:16:71, edge weigher -> classifier
  expected  one of cg, dense, identity, minres, neumann, nystrom, sama
  try       inverse: cg
""",
    ),
    "method_inverse_is_a_trajectory": (
        [("method: auto", "method: {inverse: unrolled}")],
        """\
SpecError: edges[0].method.inverse: 'unrolled' is a method of its own and has no inverse
  where     spec.yaml:16:71, edge weigher -> classifier
  expected  one of cg, dense, identity, minres, neumann, nystrom, sama
  try       method: unrolled
""",
    ),
    "method_product": (
        [("method: auto", "method: {inverse: cg, product: {name: revers}}")],
        """\
SpecError: edges[0].method.product.name: 'revers' is not a known product
  where     spec.yaml:16:91, edge weigher -> classifier
  expected  one of finite_difference, forward, reverse
  try       name: reverse
""",
    ),
    "method_named_twice": (
        [("method: auto", "method: {name: cg, product: forward}")],
        """\
SpecError: edges[0].method: a method is named whole, or by its halves, and here by both
  where     spec.yaml:16:61, edge weigher -> classifier
  expected  a name, {name: ..., options}, or {inverse: ..., product: ...}
  try       method: {inverse: cg, product: forward}
""",
    ),
    "method_without_halves": (
        [("method: auto", "method: {name: unrolled, product: forward}")],
        """\
SpecError: edges[0].method: 'unrolled' has neither an inverse nor a product
  where     spec.yaml:16:61, edge weigher -> classifier
  expected  a name, {name: ..., options}, or {inverse: ..., product: ...}
""",
    ),
    "method_epsilon_of_zero": (
        [("method: auto", "method: {name: finite_difference, epsilon: 0}")],
        """\
SpecError: edges[0].method.epsilon: 0 is out of range
  where     spec.yaml:16:96, edge weigher -> classifier
  expected  a number, at least 1e-12: length of the perturbation: parameters move by epsilon / ||q|| along q
""",
    ),
    "method_product_alone": (
        [("method: auto", "method: {product: reverse}")],
        """\
SpecError: edges[0].method: a product needs an inverse beside it
  where     spec.yaml:16:61, edge weigher -> classifier
  expected  inverse: one of cg, dense, identity, minres, neumann, nystrom, sama
""",
    ),
    "method_option_beside_halves": (
        [("method: auto", "method: {inverse: cg, iterations: 3}")],
        """\
SpecError: edges[0].method.iterations: unknown field 'iterations'
  where     spec.yaml:16:75, edge weigher -> classifier
  expected  inverse and product
  try       inverse: {name: cg, iterations: ...}
""",
    ),
    "method_half_without_name": (
        [("method: auto", "method: {inverse: {iterations: 3}}")],
        """\
SpecError: edges[0].method.inverse: missing field 'name'
  where     spec.yaml:16:71, edge weigher -> classifier
  expected  one of cg, dense, identity, minres, neumann, nystrom, sama
""",
    ),
}


ALL = ", ".join([AUTO, *sorted(PRESETS)])


@pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES.keys())
def test_method_error(changes: list[tuple[str, str]], expected: str, tmp_path: Path) -> None:
    assert report(tmp_path, edited(*changes)) + "\n" == expected.replace("one of ALL", f"one of {ALL}")
