"""The table of hypergradient methods: names, options and what passes must know of each.

An implicit method is an *inverse* (how ``q ~ H^-1 v`` is approximated) and a *product* (how Hessian-vector and
mixed products are evaluated), chosen independently. A *trajectory* method differentiates the lower's own optimiser
steps and needs neither. Presets are the names that people know for common pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from betty.ir.records import Call, Value


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a method: its default, the least and greatest value allowed and a line of help."""

    default: Value
    help: str
    minimum: float | None = None
    maximum: float | None = None
    optional: bool = False
    """Whether ``None`` is allowed, meaning that a pass or the executor chooses."""

    @property
    def kind(self) -> type:
        return type(self.default)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What the compiler knows of an inverse, a product or a trajectory method.

    Args:
        options: Allowed options by name.
        summary: One line for listings and error messages.
        second_order: Whether the lower's loss must be differentiable twice.
    """

    options: Mapping[str, Option]
    summary: str
    second_order: bool = False


INVERSES: dict[str, Declared] = {
    "identity": Declared(options={}, summary="q = v; ignores curvature"),
    "cg": Declared(
        options={
            "iterations": Option(default=20, minimum=1, help="most conjugate-gradient steps"),
            "tolerance": Option(default=1e-6, minimum=0.0, help="stop at this relative residual"),
            "damping": Option(default=0.0, minimum=0.0, help="solve (H + damping I) q = v"),
        },
        summary="conjugate gradients on H q = v",
        second_order=True,
    ),
    "neumann": Declared(
        options={
            "iterations": Option(default=10, minimum=0, help="corrections after the leading term"),
            "alpha": Option(default=0.01, minimum=0.0, help="step of the series, below 2 / largest eigenvalue"),
        },
        summary="truncated Neumann series of H^-1",
        second_order=True,
    ),
}

PRODUCTS: dict[str, Declared] = {
    "reverse": Declared(options={}, summary="double backward; exact", second_order=True),
    "finite_difference": Declared(
        options={
            "epsilon": Option(
                default=0.01,
                minimum=0.0,
                help="length of the perturbation: parameters move by epsilon / ||q|| along q",
            ),
        },
        summary="central difference of first-order gradients; inexact",
    ),
}

TRAJECTORIES: dict[str, Declared] = {
    "unrolled": Declared(
        options={
            "steps": Option(
                default=0,
                minimum=0,
                help="last lower updates to differentiate; 0 takes the lower's unroll",
            ),
        },
        summary="reverse mode through the lower's last updates",
        second_order=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A well-known name for a method; options of both halves may be given beside it."""

    inverse: str = ""
    product: str = ""
    trajectory: str = ""
    source: str = ""


PRESETS: dict[str, Preset] = {
    "cg": Preset(inverse="cg", product="reverse", source="Rajeswaran et al. 2019, arXiv:1909.04630"),
    "finite_difference": Preset(
        inverse="identity", product="finite_difference", source="DARTS: Liu et al. 2019, arXiv:1806.09055, eq. 8"
    ),
    "neumann": Preset(inverse="neumann", product="reverse", source="Lorraine et al. 2020, arXiv:1911.02590"),
    "unrolled": Preset(trajectory="unrolled", source="Franceschi et al. 2017, arXiv:1703.01785"),
}

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the response of one edge's lower problem is approximated, with every option written out.

    ``solver`` names an inverse or a trajectory method; ``product`` is present exactly for inverses.
    """

    solver: Call
    product: Call | None = None

    @property
    def unrolled(self) -> bool:
        return self.solver.name in TRAJECTORIES

    @property
    def second_order(self) -> bool:
        solver = INVERSES.get(self.solver.name) or TRAJECTORIES[self.solver.name]
        needs_product = self.product is not None and PRODUCTS[self.product.name].second_order
        if self.product is not None and not needs_product:
            return False  # every product is then a difference of first-order gradients
        return solver.second_order or needs_product

    def to_text(self) -> str:
        return self.solver.to_text() if self.product is None else f"{self.solver.to_text()} + {self.product.to_text()}"

    @classmethod
    def parse(cls, text: str) -> Method:
        head, plus, tail = text.partition(" + ")
        return cls(solver=Call.parse(head), product=Call.parse(tail) if plus else None)


def defaults(declared: Declared) -> dict[str, Value]:
    return {name: option.default for name, option in declared.options.items()}


def complete(name: str, declared: Declared, options: Mapping[str, Value]) -> Call:
    """A call of ``name`` with every option present, in the table's order; floats where the table has floats."""
    values = {**defaults(declared), **options}
    typed = ((key, _typed(values[key], option)) for key, option in declared.options.items())
    return Call(name=name, options=tuple(typed))


def _typed(value: Value, option: Option) -> Value:
    return float(value) if option.kind is float and isinstance(value, int | float) else value


def preset(name: str, options: Mapping[str, Value] | None = None) -> Method:
    """The method that a preset stands for, with ``options`` given to whichever half declares them."""
    chosen, options = PRESETS[name], dict(options or {})
    if chosen.trajectory:
        return Method(solver=complete(chosen.trajectory, TRAJECTORIES[chosen.trajectory], options))
    inverse, product = INVERSES[chosen.inverse], PRODUCTS[chosen.product]
    return Method(
        solver=complete(chosen.inverse, inverse, {k: v for k, v in options.items() if k in inverse.options}),
        product=complete(chosen.product, product, {k: v for k, v in options.items() if k in product.options}),
    )
