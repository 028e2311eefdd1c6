"""``engine.check()`` of programs whose data, order of events and hooks are their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from betty import RunError
from betty.ir.methods import preset
from tests.classes.programs import darts_search, domain_adaptation, imaml, logistic_regression_hpo

PROGRAMS: dict[str, Callable[[], Any]] = {
    "imaml": lambda: imaml.build(method="cg", train_iters=12),
    "domain_adaptation": lambda: domain_adaptation.build(train_iters=12),
    "darts_search": lambda: darts_search.build(train_iters=12),
    "logistic_regression_hpo": lambda: logistic_regression_hpo.build(train_iters=220),
}
FEW = (preset("finite_difference"),)


def trained(name: str, *, check: bool) -> tuple[list[Tensor], Any]:
    torch.manual_seed(0)
    engine, report = PROGRAMS[name](), None
    engine.run(4)
    if check:
        report = engine.check(iterations=110 if name == "logistic_regression_hpo" else 8, points=1, methods=FEW)
    engine.run(4)
    parts = [part.detach().clone() for problem in engine.problems for part in problem.module.parameters()]
    return parts, report


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_programs_are_checked_and_left_as_they_are(name: str) -> None:
    (checked, report), (plain, _) = trained(name, check=True), trained(name, check=False)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(checked, plain, strict=True))
    for edge in report.check.edges:
        assert edge.rows and all(row.cosine is not None or row.reason for row in edge.rows)
        assert any(row.name.startswith("identity") for row in edge.rows)


def test_data_that_no_step_has_provided_yet_is_asked_for() -> None:
    with pytest.raises(RunError, match=r"get_batch of 'inner' raises KeyError: 'train'(.|\n)*run the engine first"):
        PROGRAMS["imaml"]().check(iterations=8, points=1)
