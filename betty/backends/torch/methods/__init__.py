"""Inverses, products and estimators by the names of ``betty.ir.methods``."""

from __future__ import annotations

from betty.backends.torch.methods.base import Aid, Inverse, Linearization, Lower, Product, Solution, Status
from betty.backends.torch.methods.cg import CG
from betty.backends.torch.methods.dense import Dense
from betty.backends.torch.methods.estimators import Answer, Estimator, Occasion
from betty.backends.torch.methods.evolution_strategies import EvolutionStrategies
from betty.backends.torch.methods.finite_difference import FiniteDifference
from betty.backends.torch.methods.forward import Forward
from betty.backends.torch.methods.identity import Identity
from betty.backends.torch.methods.minres import MinRes
from betty.backends.torch.methods.neumann import Neumann
from betty.backends.torch.methods.nystrom import Nystrom
from betty.backends.torch.methods.penalty import Penalty
from betty.backends.torch.methods.reinforce import Reinforce
from betty.backends.torch.methods.reverse import Reverse
from betty.backends.torch.methods.sama import Sama
from betty.ir.records import Call

INVERSES: dict[str, type[Inverse]] = {
    "identity": Identity,
    "sama": Sama,
    "neumann": Neumann,
    "cg": CG,
    "minres": MinRes,
    "nystrom": Nystrom,
    "dense": Dense,
}
PRODUCTS: dict[str, type[Product]] = {
    "reverse": Reverse,
    "forward": Forward,
    "finite_difference": FiniteDifference,
}
ESTIMATORS: dict[str, type[Estimator]] = {
    "penalty": Penalty,
    "reinforce": Reinforce,
    "evolution_strategies": EvolutionStrategies,
}


def inverse(call: Call) -> Inverse:
    return INVERSES[call.name](**dict(call.options))


def product(call: Call) -> Product:
    return PRODUCTS[call.name](**dict(call.options))


def estimator(call: Call) -> Estimator:
    return ESTIMATORS[call.name](**dict(call.options))


__all__ = [
    "CG",
    "ESTIMATORS",
    "INVERSES",
    "PRODUCTS",
    "Aid",
    "Answer",
    "Dense",
    "Estimator",
    "EvolutionStrategies",
    "FiniteDifference",
    "Forward",
    "Identity",
    "Inverse",
    "Linearization",
    "Lower",
    "MinRes",
    "Neumann",
    "Nystrom",
    "Occasion",
    "Penalty",
    "Product",
    "Reinforce",
    "Reverse",
    "Sama",
    "Solution",
    "Status",
    "estimator",
    "inverse",
    "product",
]
