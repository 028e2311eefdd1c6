"""The table of hypergradient methods: names, options and what passes must know of each.

An implicit method is an *inverse* (how ``q ~ H^-1 v`` is approximated) and a *product* (how Hessian-vector and
mixed products are evaluated), chosen independently. A *trajectory* method differentiates the lower's own optimiser
steps, and an *estimator* needs no second derivative of any kind; neither has a product. Presets are the names that
people know for common pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
    choices: tuple[str, ...] = ()
    """Of an option that is a word: the words that it may be."""

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
        adapts: Whether it reads what the lower's optimiser did at its last update.
    """

    options: Mapping[str, Option]
    summary: str
    second_order: bool = False
    adapts: bool = False


WARM_START = Option(default=False, help="start from the solution of the upper's previous step")


INVERSES: dict[str, Declared] = {
    "identity": Declared(options={}, summary="q = v; ignores curvature"),
    "sama": Declared(options={}, summary="q = (du/dg)^T v, the optimiser's own adaptation", adapts=True),
    "neumann": Declared(
        options={
            "iterations": Option(default=10, minimum=0, help="corrections after the leading term"),
            "alpha": Option(default=0.01, minimum=1e-12, help="step of the series, below 2 / largest eigenvalue"),
            "warm_start": WARM_START,
        },
        summary="truncated Neumann series of H^-1",
        second_order=True,
    ),
    "cg": Declared(
        options={
            "iterations": Option(default=20, minimum=1, help="most conjugate-gradient steps"),
            "tolerance": Option(default=1e-6, minimum=0.0, help="stop at this relative residual"),
            "damping": Option(default=0.0, minimum=0.0, help="solve (H + damping I) q = v"),
            "precondition": Option(default=False, help="scale coordinates as the lower's optimiser does"),
            "warm_start": WARM_START,
        },
        summary="conjugate gradients on H q = v, for positive definite H",
        second_order=True,
        adapts=True,
    ),
    "minres": Declared(
        options={
            "iterations": Option(default=20, minimum=1, help="most Lanczos steps"),
            "tolerance": Option(default=1e-6, minimum=0.0, help="stop at this relative residual"),
            "damping": Option(default=0.0, minimum=0.0, help="solve (H + damping I) q = v"),
            "warm_start": WARM_START,
        },
        summary="minimal residuals on H q = v, for indefinite H too",
        second_order=True,
    ),
    "nystrom": Declared(
        options={
            "rank": Option(default=10, minimum=1, help="random directions that H is known by"),
            "damping": Option(default=0.01, minimum=1e-12, help="eigenvalue in all other directions"),
        },
        summary="inverse of a low-rank sketch of H plus damping",
        second_order=True,
    ),
    "dense": Declared(
        options={
            "damping": Option(default=0.0, minimum=0.0, help="solve (H + damping I) q = v"),
            "limit": Option(default=5000, minimum=1, help="most parameters of the lower; H has their square"),
        },
        summary="the whole Hessian and a direct solve; for small lowers",
        second_order=True,
    ),
}

PRODUCTS: dict[str, Declared] = {
    "reverse": Declared(options={}, summary="double backward; exact", second_order=True),
    "forward": Declared(options={}, summary="forward over reverse; exact, no double backward", second_order=True),
    "finite_difference": Declared(
        options={
            "epsilon": Option(
                default=0.01,
                minimum=1e-12,
                help="length of the perturbation: parameters move by epsilon / ||q|| along q",
            ),
            "multitask": Option(
                default=False, help="leave the lower where the last perturbation has moved it, by -epsilon / ||q|| q"
            ),
        },
        summary="central difference of first-order gradients; inexact",
    ),
}

STEPS = Option(default=0, minimum=0, help="last lower updates to look back on; 0 takes the lower's unroll")

TRAJECTORIES: dict[str, Declared] = {
    "unrolled": Declared(
        options={
            "steps": STEPS,
            "truncate": Option(default=0, minimum=0, help="most of these updates to differentiate; 0 for all"),
            "remat": Option(default=False, help="keep every sqrt(steps)-th state alone, and compute the rest again"),
        },
        summary="reverse mode through the lower's last updates",
        second_order=True,
    ),
    "forward_mode": Declared(
        options={
            "reset": Option(default=True, help="forget at every step of the upper; else all updates so far count"),
        },
        summary="carries d theta / d x along the lower's updates; for uppers of few parameters",
        second_order=True,
    ),
}

ESTIMATORS: dict[str, Declared] = {
    "penalty": Declared(
        options={
            "iterations": Option(default=10, minimum=1, help="descent steps on the penalised lower loss"),
            "alpha": Option(default=0.01, minimum=1e-12, help="length of these steps, below 2 / largest eigenvalue"),
            "multiplier": Option(default=100.0, minimum=1e-12, help="weight of the value-function gap at first"),
            "growth": Option(default=0.0, minimum=0.0, help="added to the multiplier at every step of the upper"),
            "warm_start": WARM_START,
        },
        summary="value-function gap; first derivatives alone",
    ),
    "reinforce": Declared(
        options={
            "steps": Option(default=0, minimum=0, help="last lower updates whose draws count; 0 takes the unroll"),
            "decay": Option(default=0.9, minimum=0.0, maximum=1.0, help="of the running mean that is the baseline"),
        },
        summary="score function of what the lower's loss draws; needs its log_prob",
    ),
    "evolution_strategies": Declared(
        options={
            "steps": STEPS,
            "samples": Option(default=8, minimum=1, help="pairs of opposite perturbations"),
            "sigma": Option(default=0.05, minimum=1e-12, help="standard deviation of a perturbation"),
        },
        summary="replays the lower's updates under random perturbations of the upper",
    ),
}

UNPAIRED: dict[str, Declared] = {**TRAJECTORIES, **ESTIMATORS}
"""Methods that need no product beside them."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A well-known name for a method; options of both halves may be given beside it."""

    inverse: str = ""
    product: str = ""
    alone: str = ""
    """A trajectory method or an estimator."""
    source: str = ""


PRESETS: dict[str, Preset] = {
    "cg": Preset(inverse="cg", product="reverse", source="Rajeswaran et al. 2019, arXiv:1909.04630"),
    "dense": Preset(inverse="dense", product="reverse", source="the implicit function theorem as it stands"),
    "evolution_strategies": Preset(alone="evolution_strategies", source="Salimans et al. 2017, arXiv:1703.03864"),
    "finite_difference": Preset(
        inverse="identity", product="finite_difference", source="DARTS: Liu et al. 2019, arXiv:1806.09055, eq. 8"
    ),
    "forward_mode": Preset(alone="forward_mode", source="Franceschi et al. 2017, arXiv:1703.01785, algorithm 2"),
    "identity": Preset(inverse="identity", product="forward", source="T1-T2: Luketina et al. 2016, arXiv:1511.06727"),
    "minres": Preset(inverse="minres", product="reverse", source="Paige and Saunders 1975"),
    "neumann": Preset(inverse="neumann", product="reverse", source="Lorraine et al. 2020, arXiv:1911.02590"),
    "nystrom": Preset(inverse="nystrom", product="reverse", source="Hataya and Yamada 2023, arXiv:2302.09726"),
    "penalty": Preset(alone="penalty", source="F2SA: Kwon et al. 2023, arXiv:2301.10945; BOME: arXiv:2209.08709"),
    "reinforce": Preset(alone="reinforce", source="Williams 1992"),
    "sama": Preset(inverse="sama", product="finite_difference", source="Choe et al. 2023, arXiv:2310.05674"),
    "unrolled": Preset(alone="unrolled", source="Franceschi et al. 2017, arXiv:1703.01785, algorithm 1"),
}

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the response of one edge's lower problem is approximated, with every option written out.

    ``solver`` names an inverse, a trajectory method or an estimator; ``product`` is present exactly for inverses.
    """

    solver: Call
    product: Call | None = None

    @property
    def implicit(self) -> bool:
        return self.product is not None

    @property
    def trajectory(self) -> bool:
        return self.solver.name in TRAJECTORIES

    @property
    def unrolled(self) -> bool:
        return self.solver.name == "unrolled"

    @property
    def sees_updates(self) -> bool:
        """Whether what the lower's updates read beside its loss (hyperparameters, a start) takes part."""
        return self.trajectory or self.solver.name == "evolution_strategies"

    @property
    def forward(self) -> bool:
        """Whether it differentiates in forward mode."""
        return self.solver.name == "forward_mode" or (self.product is not None and self.product.name == "forward")

    @property
    def steps(self) -> int | None:
        """Updates of the lower that it looks back on; ``None`` where it looks at the last one alone."""
        found = dict(self.solver.options).get("steps")
        return None if found is None else int(found)

    @property
    def adapts(self) -> bool:
        """Whether it reads what the lower's optimiser did at its last update."""
        declared = INVERSES.get(self.solver.name)
        wanted = dict(self.solver.options).get("precondition", True)
        return declared is not None and declared.adapts and bool(wanted)

    def with_steps(self, steps: int) -> Method:
        options = tuple((key, steps if key == "steps" else value) for key, value in self.solver.options)
        return replace(self, solver=replace(self.solver, options=options))

    @property
    def second_order(self) -> bool:
        solver = INVERSES.get(self.solver.name) or UNPAIRED[self.solver.name]
        needs_product = self.product is not None and PRODUCTS[self.product.name].second_order
        if self.product is not None and not needs_product:
            return False  # every product is then a difference of first-order gradients
        return solver.second_order or needs_product

    def to_text(self) -> str:
        return self.solver.to_text() if self.product is None else f"{self.solver.to_text()} + {self.product.to_text()}"

    def brief(self) -> str:
        """The text for people: options that have their defaults are left out."""
        calls = [self.solver] if self.product is None else [self.solver, self.product]
        return " + ".join(replace(call, options=_telling(call)).to_text() for call in calls)

    @classmethod
    def parse(cls, text: str) -> Method:
        head, plus, tail = text.partition(" + ")
        return cls(solver=Call.parse(head), product=Call.parse(tail) if plus else None)


def _telling(call: Call) -> tuple[tuple[str, Value], ...]:
    """The options of a call that differ from their defaults."""
    known = defaults({**INVERSES, **PRODUCTS, **UNPAIRED}[call.name])
    return tuple(pair for pair in call.options if pair[1] != known.get(pair[0]))


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
    if chosen.alone:
        return Method(solver=complete(chosen.alone, UNPAIRED[chosen.alone], options))
    inverse, product = INVERSES[chosen.inverse], PRODUCTS[chosen.product]
    return Method(
        solver=complete(chosen.inverse, inverse, {k: v for k, v in options.items() if k in inverse.options}),
        product=complete(chosen.product, product, {k: v for k, v in options.items() if k in product.options}),
    )
