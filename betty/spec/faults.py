"""Models of a spec for numbers that do not fit: loss scales of half precision, and what is not finite."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from betty.ir.diagnostics import nearest
from betty.spec.fields import SpecModel
from betty.spec.issues import Issue, one_of, refuse

ACTIONS = ("stop", "skip", "rollback")


class ScalerSpec(SpecModel):
    """The dynamic scale of a loss in `fp16`, as in `torch.amp.GradScaler`."""

    init_scale: float = Field(default=65536.0, gt=0, description="First factor on the loss.")
    growth_factor: float = Field(default=2.0, gt=1, description="By what it grows.")
    backoff_factor: float = Field(
        default=0.5, gt=0, lt=1, description="By what it is multiplied after a step that has overflowed."
    )
    growth_interval: int = Field(default=2000, ge=1, description="Updates in a row without overflow before it grows.")


class NonfiniteSpec(SpecModel):
    """What to do where a loss, a gradient, a hypergradient or a solve is not finite."""

    action: Literal["stop", "skip", "rollback"] = Field(
        default="stop",
        description="`stop` ends the run before the update is made; `skip` leaves the update out; `rollback` goes back "
        "to the last checkpoint and on with other random numbers.",
    )
    limit: int = Field(
        default=5,
        ge=1,
        description="Of `skip`: updates of one problem left out in a row before the run ends. Of `rollback`: how often "
        "a run goes back.",
    )


def _spelled_out(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in ACTIONS:
        message, hint = f"{value!r} is not an action", nearest(value, ACTIONS)
        expected = f"{one_of(ACTIONS)}, or {{action: ..., limit: ...}}"
        raise refuse(Issue(code="bad-choice", message=message, expected=expected, hint=hint))
    return {"action": value}


Nonfinite = Annotated[
    NonfiniteSpec,
    BeforeValidator(_spelled_out, json_schema_input_type=Literal["stop", "skip", "rollback"] | NonfiniteSpec),
]
"""An action alone, or with its limit."""
