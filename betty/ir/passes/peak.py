"""Peak: the most memory that the program is expected to hold at once.

What is there all the time (parameters, optimiser states, micro-batches and graphs of updates that responses look back
on) and, beside it, the most that one instruction takes. Estimated from what the derivatives of each loss were found to
hold; buffers and what the interpreter and its libraries take are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from betty.ir.graph import Graph, Problem
from betty.ir.passes.cost import response_bytes, taped_bytes
from betty.ir.plan import Differentiate, Draw, Peak, Respond, Step, Update

TEMPORARY = {"SGD": 1, "Adam": 2, "AdamW": 2, "NAdam": 2, "RAdam": 2}
"""Copies of the parameters that an optimiser's step takes beside its state; others take two."""


def peak(graph: Graph, steps: Iterable[Step], then: Step | None = None) -> Peak | None:
    """The estimate; ``None`` where a loss could not be measured. ``then`` is what is done last."""
    problems = graph.problems
    known = [problem.facts for problem in problems if problem.facts is not None and problem.facts.gradient_bytes]
    if len(known) < len(problems) or not known:
        return None
    fixed = sum(facts.parameter_bytes + facts.state_bytes for facts in known)
    kept = sum(_taped(problem, step) for step in steps for problem in [graph.problem(step.problem)])
    found = [(most, step.problem, what) for step in steps for what, most in _moments(graph, step)]
    if then is not None:
        found += [(item.estimate.bytes, then.problem, item.op) for item in then.instructions if item.estimate]
    most, problem, what = max(found, key=lambda one: one[0])
    return Peak(fixed=fixed, kept=kept, step=most, problem=problem, op=what)


def _taped(problem: Problem, step: Step) -> int:
    """Graphs of updates and micro-batches that are kept, and derivatives that are carried along."""
    update = next((item for item in step.instructions if isinstance(item, Update)), None)
    facts = problem.facts
    assert facts is not None
    batches = max([1, *(item.keep for item in step.instructions if isinstance(item, Draw))])
    if update is None:
        return batches * facts.batch_bytes
    carried = len(update.tangents) * facts.parameter_bytes
    batches = max(batches, update.tape * update.every)
    return update.tape * taped_bytes(facts, update.every) + carried + batches * facts.batch_bytes


def _moments(graph: Graph, step: Step) -> Iterator[tuple[str, int]]:
    """What each instruction takes, what the step holds at the time included."""
    problem = graph.problem(step.problem)
    facts = problem.facts
    assert facts is not None
    adjoints = 0
    taped = any(isinstance(item, Update) and item.tape for item in step.instructions)
    waiting = facts.parameter_bytes if problem.accumulation > 1 else 0
    for item in step.instructions:
        if isinstance(item, Differentiate):
            yield item.op, waiting + (facts.graph_bytes if taped else facts.gradient_bytes)
            lowers = [graph.problem(name).facts for name, _ in item.adjoints]
            adjoints = facts.parameter_bytes + sum(one.parameter_bytes for one in lowers if one is not None)
        elif isinstance(item, Respond):
            lower = graph.problem(item.problem)
            assert lower.facts is not None
            yield item.op, waiting + adjoints + response_bytes(lower.facts, item.method)
        elif isinstance(item, Update):
            temporary = (1 + TEMPORARY.get(item.optimizer, 2)) * facts.parameter_bytes
            yield item.op, waiting + (facts.graph_bytes + facts.update_bytes if taped else temporary)
