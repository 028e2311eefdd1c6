"""The plan and its graph as plain data, for ``betty compile --json``."""

from __future__ import annotations

import dataclasses
from typing import Any

from betty.ir.graph import Edge, Graph, Problem
from betty.ir.plan import Instruction, Plan, Step
from betty.ir.records import Call


def summary(plan: Plan, graph: Graph) -> dict[str, Any]:
    """Everything that ``betty compile`` shows, as values that JSON knows.

    ``work`` is in floating-point operations, ``memory`` in bytes; both are ``null`` where no trace was made.
    """
    return {
        "name": plan.name,
        "iterations": plan.iterations,
        "device": plan.device,
        "precision": plan.precision,
        "seed": plan.seed,
        "compile": plan.compile or None,
        "peak": {**dataclasses.asdict(plan.peak), "bytes": plan.peak.bytes} if plan.peak else None,
        "order": [step.problem for step in plan],
        "problems": [_problem(problem) for problem in graph.problems],
        "edges": [_edge(edge) for edge in graph.edges],
        "steps": [
            {
                "problem": step.problem,
                "every": step.period,
                "after": [{"problem": lower, "micro_batches": least} for lower, least in step.after],
                "instructions": [_instruction(item) for item in step.instructions],
            }
            for step in plan
        ],
        "then": _then(plan.then) if plan.then is not None else None,
    }


def _then(step: Step) -> dict[str, Any]:
    """What is done once, after the last iteration."""
    return {"problem": step.problem, "instructions": [_instruction(item) for item in step.instructions]}


def _problem(problem: Problem) -> dict[str, Any]:
    found = dataclasses.asdict(problem)
    found["reads"] = list(problem.reads) if problem.reads is not None else None
    found["update_reads"] = list(problem.update_reads)
    return found


def _edge(edge: Edge) -> dict[str, Any]:
    product = edge.method.product if edge.method is not None else None
    method = edge.method or edge.valuation
    return {
        "upper": edge.upper,
        "lower": edge.lower,
        "flow": edge.flow.value,
        "method": method.to_text() if method else None,
        "solver": _call(method.solver) if method else None,
        "product": _call(product) if product else None,
        "chosen": "auto" if edge.reason else "spec",
        "reason": edge.reason,
    }


def _call(call: Call) -> dict[str, Any]:
    return {"name": call.name, "options": dict(call.options)}


def _instruction(item: Instruction) -> dict[str, Any]:
    found: dict[str, Any] = {"op": item.op}
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if field.name == "estimate":
            found["work"] = value.flops if value else None
            found["memory"] = value.bytes if value else None
        elif field.name == "exchange":
            if value is not None:
                found |= {"collectives": value.calls, "exchanged": value.bytes}
        elif field.name == "method":
            found["method"] = value.to_text()
        elif field.name in ("into", "adjoints"):
            found[field.name] = [{"problem": problem, "slot": slot} for problem, slot in value]
        else:
            found[field.name] = value
    return found
