"""Tables of methods from the code: ``{method-options} KIND NAME`` and ``{auto-rules}``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from betty.ir import methods
from betty.ir.methods import ESTIMATORS, INVERSES, PRODUCTS, TRAJECTORIES, Declared, Option
from betty.ir.passes import methods as choosing
from betty.ir.passes.methods import RULES
from betty.ir.valuations import VALUATIONS

TABLES: dict[str, Mapping[str, Declared]] = {
    "inverse": INVERSES,
    "product": PRODUCTS,
    "trajectory": TRAJECTORIES,
    "estimator": ESTIMATORS,
    "valuation": VALUATIONS,
}


def options_table(kind: str, name: str) -> str:
    """A Markdown table of the options of ``name`` in the table ``kind``; a sentence where there are none."""
    options = TABLES[kind][name].options
    if not options:
        return "It has no options."
    rows = [_row(key, option) for key, option in options.items()]
    return "\n".join(["| Option | Default | Allowed | Meaning |", "| --- | --- | --- | --- |", *rows])


def _row(name: str, option: Option) -> str:
    bounds = (("at least", option.minimum), ("at most", option.maximum))
    allowed = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None) or "any"
    allowed = ", ".join(f"`{word}`" for word in option.choices) or allowed
    meaning = option.help.replace("|", "\\|")
    return f"| `{name}` | `{json.dumps(option.default)}` | {allowed} | {meaning} |"


class MethodOptions(SphinxDirective):
    """Insert :func:`options_table` for ``{method-options} inverse cg``."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(inspect.getfile(methods))
        return self.parse_text_to_nodes(options_table(*self.arguments))


def rules_table() -> str:
    """A Markdown table of the rules of ``auto``, first to last."""
    rows = [f"| {rule.when} | `{rule.method.brief()}` |" for rule in RULES]
    return "\n".join(["| Holds for the lower | Method |", "| --- | --- |", *rows])


class AutoRules(SphinxDirective):
    """Insert :func:`rules_table`."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(inspect.getfile(choosing))
        return self.parse_text_to_nodes(rules_table())


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("method-options", MethodOptions)
    app.add_directive("auto-rules", AutoRules)
    return {"parallel_read_safe": True}
