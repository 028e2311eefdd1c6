"""Textual IR: graphs and plans as text that can be read, compared line by line and parsed back.

For every graph, ``parse_graph(graph_to_text(graph)) == graph``, and for every plan
``parse_plan(plan_to_text(plan)) == plan``, where methods have all options written out, as passes leave them.
Values that equal their defaults are left out, empty lines and lines that start with ``#`` mean nothing, and so
does indentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

from betty.ir.diagnostics import BettyError, GraphError, PlanError
from betty.ir.graph import Edge, Graph, Problem, Settings
from betty.ir.plan import (
    Differentiate,
    Draw,
    Estimate,
    Exchange,
    Fit,
    Instruction,
    Log,
    Peak,
    Plan,
    Respond,
    Score,
    Step,
    Update,
)
from betty.ir.records import Facts, Weights
from betty.ir.scan import (
    COUNTS,
    FLAG,
    FLOW,
    METHOD,
    NAME,
    NAMES,
    NUMBER,
    PAIRS,
    SHAPES,
    TEXT,
    VALUATION,
    WHOLE,
    WHOLES,
    Cursor,
    Kind,
    write_name,
    write_text,
)

Table = Mapping[str, Kind]

# Fields in the order in which they are written; what identifies a record stands before them, without a key.
SETTINGS: Table = {"iterations": WHOLE, "device": TEXT, "precision": TEXT, "seed": WHOLE}
CHOICES: Table = {
    "roll_back": FLAG,
    "strategy": TEXT,
    "local_adjoints": FLAG,
    "memory": WHOLE,
    "compile": TEXT,
    "reason": TEXT,
}
"""Settings that are written only where they are chosen."""
PROBLEM: Table = {
    "loss": TEXT,
    "reads": NAMES,
    "update_reads": NAMES,
    "optimizer": TEXT,
    "unroll": WHOLE,
    "accumulation": WHOLE,
    "warm_up": WHOLE,
    "precision": TEXT,
    "gradient_clipping": NUMBER,
    "recomputes": FLAG,
    "level": WHOLE,
    "period": WHOLE,
}
FACTS: Table = {
    "parameters": WHOLE,
    "parameter_bytes": WHOLE,
    "state_bytes": WHOLE,
    "forward_flops": WHOLE,
    "backward_flops": WHOLE,
    "saved_bytes": WHOLE,
    "batch_bytes": WHOLE,
    "gradient_bytes": WHOLE,
    "graph_bytes": WHOLE,
    "product_bytes": WHOLE,
    "tangent_bytes": WHOLE,
    "mixed_bytes": WHOLE,
    "update_bytes": WHOLE,
    "twice": FLAG,
    "forward": FLAG,
    "plain": FLAG,
    "note": TEXT,
}
WEIGHTS: Table = {
    "likelihood": TEXT,
    "dtype": TEXT,
    "tokens": FLAG,
    "examples": WHOLE,
    "batch": WHOLE,
    "queries": WHOLE,
    "layers": SHAPES,
    "ranks": WHOLES,
}
PEAK: Table = {"fixed": WHOLE, "kept": WHOLE, "step": WHOLE, "problem": TEXT, "op": TEXT}
EDGE: Table = {"flow": FLOW, "method": METHOD, "valuation": VALUATION, "reason": TEXT}
METHODS: Table = {key: kind for key, kind in EDGE.items() if key != "flow"}
PLAN: Table = {**SETTINGS, "edges": WHOLE}
SPREAD: Table = {key: CHOICES[key] for key in ("strategy", "reason", "memory", "compile")}
STEP: Table = {"period": WHOLE, "level": WHOLE, "after": COUNTS, "ahead": WHOLE, "answered_by": NAMES}
ESTIMATE: Table = {"flops": WHOLE, "bytes": WHOLE}
EXCHANGE: Table = {"collectives": WHOLE, "exchanged": WHOLE}
INSTRUCTIONS: Mapping[str, tuple[type[Instruction], Table]] = {
    "draw": (Draw, {"keep": WHOLE}),
    "differentiate": (Differentiate, {"adjoints": PAIRS}),
    "respond": (Respond, {"slot": NAME, "method": METHOD, "into": PAIRS, "edge": TEXT, "reason": TEXT, "local": FLAG}),
    "update": (
        Update,
        {"optimizer": TEXT, "every": WHOLE, "tape": WHOLE, "replay": WHOLE, "tangents": NAMES, "remember": FLAG},
    ),
    "fit": (Fit, {"method": VALUATION, "passes": NUMBER}),
    "log": (
        Log,
        {
            "method": VALUATION,
            "edge": TEXT,
            "reason": TEXT,
            "passes": NUMBER,
            "examples": WHOLE,
            "size": WHOLE,
            "dtype": TEXT,
            "stored": WHOLE,
        },
    ),
    "score": (Score, {"method": VALUATION, "queries": WHOLE, "passes": NUMBER}),
}
ABOUT = (Respond, Fit, Log, Score)
"""Instructions that name a problem."""


def graph_to_text(graph: Graph) -> str:
    """One line for the graph, one for each problem (and its facts) and one for each edge."""
    settings = _write(graph.settings, SETTINGS, everything=True), _write(graph.settings, CHOICES)
    lines = [_line("graph", write_text(graph.name), *settings)]
    for problem in graph.problems:
        lines.append(_line("  problem", write_name(problem.name), _write(problem, PROBLEM)))
        if problem.facts is not None:
            lines.append(_line("    facts", _write(problem.facts, FACTS)))
        if problem.weights is not None:
            lines.append(_line("    weights", _write(problem.weights, WEIGHTS)))
    for edge in graph.edges:
        ends = f"{write_name(edge.upper)} -> {write_name(edge.lower)}"
        lines.append(_line("  edge", ends, f"flow={edge.flow}", _write(edge, METHODS)))
    return "\n".join(lines) + "\n"


def plan_to_text(plan: Plan) -> str:
    """One line for the plan, one for each step and one for each instruction, numbered within its step."""
    lines = [_line("plan", write_text(plan.name), _write(plan, PLAN, everything=True), _write(plan, SPREAD))]
    for step in plan:
        always = f"period={step.period} level={step.level}"
        chosen = {key: kind for key, kind in STEP.items() if key not in ("period", "level")}
        lines.append(_line("  step", write_name(step.problem), always, _write(step, chosen)))
        lines += [f"    %{index} = {_instruction_text(item)}" for index, item in enumerate(step.instructions)]
    if plan.then is not None:
        lines.append(_line("  then", write_name(plan.then.problem), _write(plan.then, STEP)))
        lines += [f"    %{index} = {_instruction_text(item)}" for index, item in enumerate(plan.then.instructions)]
    if plan.peak is not None:
        lines.append(_line("  peak", _write(plan.peak, PEAK, everything=True)))
    return "\n".join(lines) + "\n"


def _instruction_text(item: Instruction) -> str:
    subject = write_name(item.problem) if isinstance(item, ABOUT) else ""
    estimate = _write(item.estimate, ESTIMATE, everything=True) if item.estimate is not None else ""
    met = f"collectives={item.exchange.calls} exchanged={item.exchange.bytes}" if item.exchange is not None else ""
    return _line(item.op, subject, _write(item, INSTRUCTIONS[item.op][1]), estimate, met)


def _line(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _write(record: Any, table: Table, everything: bool = False) -> str:
    defaults = {one.name: one.default for one in fields(record)}
    values = {key: getattr(record, key) for key in table}
    return _line(
        *(f"{key}={table[key].write(values[key])}" for key in table if everything or values[key] != defaults[key])
    )


def parse_graph(text: str) -> Graph:
    """The graph that ``text`` describes.

    Raises:
        GraphError: The text is not that of a graph; says line, column, what was found and what was expected.
    """
    lines = _cursors(text, GraphError)
    name, settings = _head(lines, "graph", {**SETTINGS, **CHOICES}, GraphError)
    problems: dict[str, Problem] = {}
    edges: dict[tuple[str, str], Edge] = {}
    for cursor in lines:
        match cursor.keyword(("problem", "facts", "weights", "edge"), "a line of a graph"):
            case "problem":
                problem = _problem(cursor, problems)
                problems[problem.name] = problem
            case "facts":
                last = _last(problems, cursor, "a problem before its facts")
                problems[last] = replace(problems[last], facts=Facts(**_read(cursor, FACTS, "a fact")))
            case "weights":
                last = _last(problems, cursor, "a problem before its weights")
                problems[last] = replace(
                    problems[last], weights=Weights(**_read(cursor, WEIGHTS, "a field of weights"))
                )
            case _:
                edge = _edge(cursor, problems, edges)
                edges[edge.upper, edge.lower] = edge
    return Graph(name, tuple(problems.values()), tuple(edges.values()), Settings(**settings))


def _problem(cursor: Cursor, known: Mapping[str, Problem]) -> Problem:
    name = cursor.name()
    if name in known:
        cursor.fail(f"a second problem {name!r}", expected="a name for each problem")
    return Problem(name=name, **_read(cursor, PROBLEM, "a field of a problem"))


def _edge(cursor: Cursor, problems: Mapping[str, Problem], known: Mapping[tuple[str, str], Edge]) -> Edge:
    upper = _known_problem(cursor, problems)
    cursor.expect("->")
    lower = _known_problem(cursor, problems)
    if upper == lower or (upper, lower) in known:
        cursor.fail(f"edge {upper} -> {lower}", expected="two different problems, and one edge to a pair")
    return Edge(upper=upper, lower=lower, **_read(cursor, EDGE, "a field of an edge"))


def _known_problem(cursor: Cursor, problems: Mapping[str, Problem]) -> str:
    start, name = cursor.mark(), cursor.name()
    if name not in problems:
        cursor.position = start
        cursor.reject(name, tuple(problems), "a problem of this graph")
    return name


def parse_plan(text: str) -> Plan:
    """The plan that ``text`` describes.

    Raises:
        PlanError: The text is not that of a plan; says line, column, what was found and what was expected.
    """
    lines = _cursors(text, PlanError)
    name, settings = _head(lines, "plan", {**PLAN, **SPREAD}, PlanError)
    steps: dict[str, Step] = {}
    peak: Peak | None = None
    then: str | None = None
    for cursor in lines:
        if cursor.accept("%"):
            last = _last(steps, cursor, "a step before its instructions")
            done = steps[last].instructions
            steps[last] = replace(steps[last], instructions=(*done, _instruction(cursor, len(done))))
        else:
            line = cursor.keyword(("step", "then", "peak"), "a line of a plan")
            if line == "peak":
                peak = Peak(**_read(cursor, PEAK, "a field of a peak"))
                continue
            step = Step(problem=cursor.name(), **_read(cursor, STEP, "a field of a step"))
            if step.problem in steps:
                cursor.fail(f"a second step of {step.problem!r}", expected="one step for each problem")
            steps[step.problem] = step
            then = step.problem if line == "then" else then
    last_step = None if then is None else steps.pop(then)
    return Plan(name=name, steps=tuple(steps.values()), then=last_step, peak=peak, **settings)


def _instruction(cursor: Cursor, index: int) -> Instruction:
    if cursor.match(re.compile(rf"{index}\b")) is None:
        cursor.fail(f"found instruction %{cursor.found().strip(chr(39))}", expected=f"%{index}, the next of this step")
    cursor.expect("=")
    op = cursor.keyword(tuple(INSTRUCTIONS), "an instruction")
    kind, table = INSTRUCTIONS[op]
    values: dict[str, Any] = {"problem": cursor.name()} if kind in ABOUT else {}
    values |= _read(cursor, {**table, **ESTIMATE, **EXCHANGE}, f"a field of {op}")
    exchange = [values.pop(key) for key in EXCHANGE if key in values]
    met = Exchange(**dict(zip(("calls", "bytes"), exchange, strict=False))) if exchange else None
    estimate = {key: values.pop(key) for key in ESTIMATE if key in values}
    wanted = [one.name for one in fields(kind) if one.default is MISSING and one.name not in values]
    if wanted:
        cursor.fail(f"{op} lacks {', '.join(wanted)}", expected=", ".join(f"{key}=..." for key in wanted))
    return kind(**values, estimate=Estimate(**estimate) if estimate else None, exchange=met)


def _cursors(text: str, error: type[BettyError]) -> Iterator[Cursor]:
    for number, line in enumerate(text.split("\n"), start=1):
        cursor = Cursor(line, number, error)
        if not cursor.done and not line.lstrip().startswith("#"):
            yield cursor


def _head(lines: Iterator[Cursor], keyword: str, table: Table, error: type[BettyError]) -> tuple[str, dict[str, Any]]:
    cursor = next(lines, Cursor("", 1, error))
    cursor.keyword((keyword,), f"the first line of a {keyword}")
    return cursor.name(), _read(cursor, table, f"a setting of a {keyword}")


def _last(done: dict[str, Any], cursor: Cursor, expected: str) -> str:
    return next(reversed(done)) if done else cursor.fail("nothing to add this line to", expected=expected)


def _read(cursor: Cursor, table: Table, role: str) -> dict[str, Any]:
    """The ``key=value`` pairs up to the end of the line."""
    values: dict[str, Any] = {}
    while not cursor.done:
        key = cursor.keyword(tuple(table), role)
        if key in values:
            cursor.fail(f"{key!r} is given twice", expected="each field once")
        cursor.expect("=")
        values[key] = table[key].read(cursor)
    return values
