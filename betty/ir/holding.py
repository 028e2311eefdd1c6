"""The memory of a whole program as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from betty.ir.plan import Peak, Plan
from betty.ir.quantities import bytes_text

HELPS = (
    "less is held with activation_checkpointing, smaller batches and gradient_accumulation, a first-order method, or "
    "several processes and strategy: zero or fsdp"
)


def peak_lines(plan: Plan, held: int | None = None) -> Iterator[str]:
    """One line, where there is an estimate: the most that is held at once, and of what it consists.

    Args:
        plan: With its estimate.
        held: What was measured.
    """
    if plan.reason:
        yield f"strategy {plan.strategy}: {plan.reason}"
    if plan.peak is None:
        return
    if held is not None:
        yield f"peak {bytes_text(held)} measured, ≈ {bytes_text(plan.peak.bytes)} expected: {_parts(plan.peak)}"
    else:
        yield f"peak ≈ {bytes_text(plan.peak.bytes)}: {_parts(plan.peak)}"
    if plan.memory is not None and plan.peak.bytes > plan.memory and plan.strategy in ("single", "ddp"):
        yield f"more than the {bytes_text(plan.memory)} allowed by engine.memory; {HELPS}"


def _parts(peak: Peak) -> str:
    parts = [f"parameters and optimiser states {bytes_text(peak.fixed)}"]
    parts += [f"what is kept of steps {bytes_text(peak.kept)}"] if peak.kept else []
    return ", ".join([*parts, f"{peak.op} of {peak.problem} {bytes_text(peak.step)}"])
