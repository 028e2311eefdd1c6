"""The front end in one call: a spec becomes a graph and live parts, or one report of everything wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from betty.ir.graph import Graph
from betty.ir.passes.check import diagnose
from betty.spec.fit import Fitted
from betty.spec.load import Document, Draft, Source, draft
from betty.spec.lowering import graph_diagnostics, lower
from betty.spec.resolve import Resolved, resolve_all


@dataclass(frozen=True)
class Program:
    """A spec that is right: where it came from, its graph and its live parts.

    Args:
        document: The spec and where it came from.
        graph: The graph that it declares.
        resolved: Factories and losses; ``None`` where nothing was imported.
    """

    document: Document
    graph: Graph
    resolved: Resolved | None


def compile_source(
    source: Source, overrides: Sequence[str] = (), trust: Iterable[str] = (), static: bool = False
) -> Program:
    """Read, check and resolve a spec.

    Args:
        source: The path of a YAML file, a mapping as such a file holds (live objects allowed), or a ``Spec``.
        overrides: ``path=value`` texts, put into the spec before it is checked.
        trust: Packages beyond ``torch`` and ``betty`` that its targets may come from.
        static: Import nothing; what cannot be known without is not checked.

    Raises:
        SpecError: Everything wrong with the fields, the targets and the program, in the order of the file.
    """
    return _compile(draft(source, overrides), trust, static)


def compile_document(
    document: Document, trust: Iterable[str] = (), static: bool = False
) -> tuple[Graph, Resolved | None]:
    """The graph and the live parts of a loaded spec.

    Raises:
        SpecError: Everything wrong with its targets and the program, in the order of the file.
    """
    fitted = Fitted(document.spec, edges=tuple(range(len(document.spec.edges))))
    program = _compile(Draft(document, fitted, ()), trust, static)
    return program.graph, program.resolved


def resolve(document: Document, trust: Iterable[str] = ()) -> Resolved:
    """The live parts of a loaded spec.

    Raises:
        SpecError: Everything wrong with its targets and the program, in the order of the file.
    """
    resolved = compile_document(document, trust)[1]
    assert resolved is not None, "only a static compilation has no live parts"
    return resolved


def _compile(found: Draft, trust: Iterable[str], static: bool) -> Program:
    document = found.document
    resolution = resolve_all(found, trust, static)
    lowered = lower(document, found.fitted, resolution.signatures)
    wrong = [*found.diagnostics, *resolution.diagnostics, *graph_diagnostics(found, lowered, diagnose)]
    if wrong:
        raise document.report(wrong)
    return Program(document, lowered.graph, resolution.resolved)
