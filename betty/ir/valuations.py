"""The table of valuation methods: how gradients of examples are stored, and which curvature stands between them.

The score of example ``i`` for query ``q`` is the derivative of the query's loss by the weight of the example in the
training loss, ``-1/N grad l_q^T (H + damping I)^-1 grad l_i``. A method says where the gradients live (whole, or
projected) and what stands for ``H``; ``identity`` and ``cosine`` have no curvature, and no ``1/N``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from betty.ir.methods import Declared, Option, complete, defaults
from betty.ir.records import Call, Value

FISHER_DRAWS = ("auto", "sampled", "empirical", "exact")
CURVATURES = ("gauss_newton", "hessian")


@dataclass(frozen=True, kw_only=True)
class Valuing(Declared):
    """What the compiler knows of a valuation method.

    Args:
        source: Where it was published.
        curvature: Whether scores are those of the training loss with its curvature; without, plain products.
        solves: Whether it solves with products of the whole curvature, query by query, instead of by stored blocks.
        ranked: Whether the layers' gradients are stored projected, at the option ``rank``.
    """

    source: str = ""
    curvature: bool = True
    solves: bool = False
    ranked: bool = False


UNITS = Option(
    default="mean_eigenvalue",
    choices=("mean_eigenvalue", "absolute"),
    help="whether damping is a fraction of the curvature's mean eigenvalue, or added as it is",
)
FISHER = Option(
    default="auto",
    choices=FISHER_DRAWS,
    help="whose labels: sampled from the model, the data's own (empirical), every possible one (exact); auto samples "
    "where the likelihood is known",
)
CURVATURE = Option(default="gauss_newton", choices=CURVATURES, help="of the training loss, whole")


def _damping(default: float) -> dict[str, Option]:
    return {
        "damping": Option(default=default, minimum=0.0, help="added to every eigenvalue of the curvature"),
        "damping_units": UNITS,
    }


VALUATIONS: dict[str, Valuing] = {
    "identity": Valuing(
        options={},
        summary="gradient dot product; over checkpoints TracIn",
        source="TracIn: Pruthi et al. 2020, arXiv:2002.08484",
        curvature=False,
    ),
    "cosine": Valuing(
        options={}, summary="cosine of gradients", source="Charpiat et al. 2019, arXiv:2102.05262", curvature=False
    ),
    "fisher": Valuing(
        options={
            **_damping(0.1),
            "block": Option(default="unit", choices=("unit", "whole"), help="one block for each layer, or one for all"),
            "fisher": FISHER,
        },
        summary="Fisher information of whole gradients; for small models",
        source="Amari 1998",
    ),
    "gauss_newton": Valuing(
        options={
            **_damping(0.1),
            "block": Option(default="unit", choices=("unit", "whole"), help="one block for each layer, or one for all"),
        },
        summary="exact Gauss-Newton blocks of whole gradients; for small models",
        source="Schraudolph 2002; Martens 2014, arXiv:1412.1193",
    ),
    "kfac": Valuing(
        options={**_damping(0.1), "fisher": FISHER},
        summary="Kronecker-factored curvature",
        source="Martens and Grosse 2015, arXiv:1503.05671",
    ),
    "ekfac": Valuing(
        options={**_damping(0.1), "fisher": FISHER},
        summary="Kronecker-factored eigenvectors with corrected eigenvalues",
        source="George et al. 2018, arXiv:1806.03884; Grosse et al. 2023, arXiv:2308.03296",
    ),
    "logra": Valuing(
        options={
            "rank": Option(default=16, minimum=1, help="kept of each side of a layer; gradients become rank x rank"),
            "init": Option(
                default="random", choices=("random", "pca", "ekfac"), help="what the gradients are projected on"
            ),
            **_damping(0.1),
            "fisher": FISHER,
        },
        summary="low-rank gradients of each layer, and their Fisher information",
        source="Choe et al. 2024, arXiv:2405.13954",
        ranked=True,
    ),
    "trak": Valuing(
        options={
            "dimension": Option(default=512, minimum=1, help="of the random projection of the whole gradient"),
            **_damping(0.001),
        },
        summary="random projection of the whole gradient",
        source="Park et al. 2023, arXiv:2303.14186",
    ),
    "cg": Valuing(
        options={
            "iterations": Option(default=50, minimum=1, help="most conjugate-gradient steps"),
            "tolerance": Option(default=1e-5, minimum=0.0, help="stop at this relative residual"),
            "curvature": CURVATURE,
            **_damping(0.01),
        },
        summary="conjugate gradients with the whole curvature, query by query",
        source="Martens 2010; Koh and Liang 2017, arXiv:1703.04730",
        solves=True,
    ),
    "dense": Valuing(
        options={
            "curvature": CURVATURE,
            "limit": Option(
                default=5000, minimum=1, help="most parameters of the model; there is their square to solve"
            ),
            **_damping(0.01),
        },
        summary="the whole curvature and a direct solve; for small models",
        source="Koh and Liang 2017, arXiv:1703.04730",
        solves=True,
    ),
    "lissa": Valuing(
        options={
            "iterations": Option(default=200, minimum=1, help="terms of the stochastic Neumann series"),
            "repeat": Option(default=1, minimum=1, help="series that are averaged"),
            "scale": Option(
                default=0.0, minimum=0.0, help="divides the curvature, above its largest eigenvalue; 0 finds one"
            ),
            "curvature": CURVATURE,
            **_damping(0.01),
        },
        summary="stochastic Neumann series over batches",
        source="Agarwal et al. 2017, arXiv:1602.03943; Koh and Liang 2017, arXiv:1703.04730",
        solves=True,
    ),
    "arnoldi": Valuing(
        options={
            "rank": Option(default=50, minimum=1, help="eigenvectors that gradients are projected on"),
            "iterations": Option(default=100, minimum=1, help="Arnoldi steps"),
            "curvature": CURVATURE,
            **_damping(0.0),
        },
        summary="largest eigenvalues of the whole curvature by Arnoldi's iteration",
        source="Schioppa et al. 2022, arXiv:2112.03052",
        solves=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class ValuationMethod:
    """How examples are valued: a method of the table with every option written out."""

    solver: Call

    @property
    def declared(self) -> Valuing:
        return VALUATIONS[self.solver.name]

    def to_text(self) -> str:
        return self.solver.to_text()

    def brief(self) -> str:
        """The text for people: options that have their defaults are left out."""
        known = defaults(self.declared)
        telling = tuple(pair for pair in self.solver.options if pair[1] != known.get(pair[0]))
        return Call(name=self.solver.name, options=telling).to_text()

    def written(self) -> dict[str, Value]:
        """``{"name": ..., options}`` as a spec and ``Valuation`` take it, without options that have their defaults."""
        known = defaults(self.declared)
        return {"name": self.solver.name, **{key: one for key, one in self.solver.options if one != known.get(key)}}


def valuation(name: str, options: Mapping[str, Value] | None = None) -> ValuationMethod:
    """The method of the table with ``options``, which are taken to be right."""
    return ValuationMethod(solver=complete(name, VALUATIONS[name], dict(options or {})))
