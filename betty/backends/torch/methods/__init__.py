"""Inverses and products by the names of ``betty.ir.methods``."""

from __future__ import annotations

from betty.backends.torch.methods.base import Inverse, Linearization, Lower, Product, Solution, Status
from betty.backends.torch.methods.cg import CG
from betty.backends.torch.methods.finite_difference import FiniteDifference
from betty.backends.torch.methods.identity import Identity
from betty.backends.torch.methods.neumann import Neumann
from betty.backends.torch.methods.reverse import Reverse
from betty.ir.records import Call

INVERSES: dict[str, type[Inverse]] = {"identity": Identity, "cg": CG, "neumann": Neumann}
PRODUCTS: dict[str, type[Product]] = {"reverse": Reverse, "finite_difference": FiniteDifference}


def inverse(call: Call) -> Inverse:
    return INVERSES[call.name](**dict(call.options))


def product(call: Call) -> Product:
    return PRODUCTS[call.name](**dict(call.options))


__all__ = [
    "CG",
    "INVERSES",
    "PRODUCTS",
    "FiniteDifference",
    "Identity",
    "Inverse",
    "Linearization",
    "Lower",
    "Neumann",
    "Product",
    "Reverse",
    "Solution",
    "Status",
    "inverse",
    "product",
]
