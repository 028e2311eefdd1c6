"""Strategy: how several processes share the work, where the program leaves it to the compiler and sets a budget."""

from __future__ import annotations

from dataclasses import replace

from betty.ir.compile import compile_graph
from betty.ir.diagnostics import GraphError
from betty.ir.graph import Graph
from betty.ir.plan import Peak
from betty.ir.quantities import bytes_text

CANDIDATES = ("ddp", "zero", "fsdp")
"""The faster first: each exchanges more than the one before it, and holds less."""


def fitting(graph: Graph, processes: int) -> tuple[str, str]:
    """The first strategy whose expected peak is within the memory budget, and why it is not the one before it.

    Args:
        graph: With facts and the budget; its own strategy is not looked at.
        processes: How many there are.
    """
    budget, needs = graph.settings.memory, dict[str, int]()
    if budget is None:
        return "ddp", ""
    for strategy in CANDIDATES:
        needed = _needed(graph, strategy, processes)
        if needed is None:
            continue
        if needed <= budget:
            return strategy, _because(needs, budget)
        needs[strategy] = needed
    least = min(needs, key=lambda one: needs[one], default="ddp")
    return least, f"{_because(needs, budget)}; nothing fits" if needs else ""


def _because(needs: dict[str, int], budget: int) -> str:
    found = " and ".join(f"{name} is expected to hold {bytes_text(needed)}" for name, needed in needs.items())
    return f"{found}, of the {bytes_text(budget)} allowed" if needs else ""


def _needed(graph: Graph, strategy: str, processes: int) -> int | None:
    """Bytes that each process is expected to hold; ``None`` where the program cannot run so, or nothing is known."""
    try:
        compiled = compile_graph(replace(graph, settings=replace(graph.settings, strategy=strategy)))
    except GraphError:
        return None
    peak = compiled.plan.peak
    return None if peak is None else peak.bytes - _shared(graph, peak, strategy, processes)


def _shared(graph: Graph, peak: Peak, strategy: str, processes: int) -> int:
    """What other processes hold of what is there all the time."""
    facts = [problem.facts for problem in graph.problems if problem.facts is not None]
    states = sum(one.state_bytes for one in facts)
    whole = {"ddp": 0, "zero": states, "fsdp": peak.fixed}[strategy]
    return whole * (processes - 1) // processes
