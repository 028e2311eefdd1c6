"""What makes a method wrong at a point: one function for each kind of trouble."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from betty.backends.torch.check.curvature import Spectrum, lanczos, spectrum
from betty.backends.torch.check.records import Flag
from betty.backends.torch.check.reference import first_line
from betty.backends.torch.methods import Linearization, Lower, product
from betty.backends.torch.tree import Tree, flatten, scale, unflatten
from betty.ir.methods import INVERSES, PRODUCTS, Method, complete

RITZ_STEPS = 50
"""Lanczos steps for the extreme eigenvalues."""
NEWTON_STEPS = 200
"""Lanczos steps for the distance from the solution."""
ROUNDING = 1e-7
"""An eigenvalue this small beside the largest is zero."""
MARGIN = 1.05
"""By how much a damping exceeds the eigenvalue that it mends."""
DIFFERENT = 1e-2
"""Relative difference from which on two products disagree."""
SAME = 1e-4
"""Relative difference that is rounding and truncation of a small step."""
SHRINKS = (*(2.0**-power for power in range(11)), 1e-4, 1e-5, 1e-6)
"""Parts of epsilon at which differences are taken: halves to see how the error shrinks, then ever smaller ones."""
SMOOTH = (1 / 64, 1 / 2)
"""By what factor the error of a smooth loss shrinks when epsilon is halved: 1/4, 1/16 where the leading term is zero,
and less regularly where epsilon is too long for either."""
ARRIVED = 0.05
"""Relative change of the hypergradient over one Newton step of the lower up to which that is at its solution."""


@dataclass(frozen=True, eq=False)
class Point:
    """One edge at one point of training.

    Args:
        upper: The edge's upper.
        lower: The edge's lower.
        iteration: When.
        method: The edge's own.
        standing: The lower's loss and parameters there, in the precision of the reference.
        exact: Its derivatives by an exact product; ``None`` where none runs.
        adjoint: The derivative of the target's loss by the lower's parameters; a fixed direction where that is zero.
        here: The exact hypergradient by the lower's solution, as one vector; ``None`` where it could not be computed.
        moved: The same with the lower's parameters moved by what is given.
    """

    upper: str
    lower: str
    iteration: int
    method: Method
    standing: Lower
    exact: Linearization | None
    adjoint: Tree
    here: Tensor | None = None
    moved: Callable[[Tree], Tensor] | None = None
    known: dict[str, Spectrum] = field(default_factory=dict)

    def spectrum(self) -> Spectrum | None:
        """The lower's extreme eigenvalues, found once."""
        if self.exact is None:
            return None
        if "spectrum" not in self.known:
            self.known["spectrum"] = spectrum(lanczos(self.hessian, self._start(), RITZ_STEPS))
        return self.known["spectrum"]

    def hessian(self, vector: Tensor) -> Tensor:
        assert self.exact is not None
        return flatten(self.exact.hessian(unflatten(vector, self.standing.parameters))).detach()

    def _start(self) -> Tensor:
        """Some direction that has a part in every eigenvector, the same in every run."""
        like = flatten(self.standing.parameters).detach()
        drawn = torch.randn(like.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return drawn.to(like)

    def flag(self, code: str, value: float, message: str, advice: str) -> Flag:
        return Flag(
            code=code,
            upper=self.upper,
            lower=self.lower,
            iteration=self.iteration,
            value=value,
            message=message,
            advice=advice,
        )


def negative_curvature(point: Point) -> Flag | None:
    """The smallest Ritz value of the lower's Hessian is negative beyond rounding."""
    found = point.spectrum()
    if found is None or found.smallest >= -_rounding(point) * found.size:
        return None
    damping = MARGIN * (found.smallest_bound - found.smallest)
    return point.flag(
        "negative_curvature",
        found.smallest,
        f"the Hessian of {point.lower} has the eigenvalue {found.smallest:.3g} (the largest is {found.largest:.3g})",
        f"cg stops there and neumann grows: a damping of {damping:.2g} makes the Hessian positive definite; or let "
        f"{point.lower} come nearer to a minimum, or take a trajectory method",
    )


def divergent_neumann(point: Point) -> Flag | None:
    """The step of a Neumann series exceeds 2 / largest eigenvalue."""
    found, alpha = point.spectrum(), _alpha(point.method)
    if found is None or found.largest <= 0 or alpha <= 2 / found.largest:
        return None
    own = "" if point.method.solver.name == "neumann" else "the default "
    return point.flag(
        "divergent_neumann",
        2 / found.largest,
        f"the Neumann series with {own}alpha = {alpha:g} diverges: the Hessian of {point.lower} has the eigenvalue "
        f"{found.largest:.3g}",
        f"the series converges for alpha below {2 / found.largest:.3g}; {1 / found.largest:.2g} is safe",
    )


def _alpha(method: Method) -> float:
    """The step of the edge's own series, else that of the table."""
    own = dict(method.solver.options) if method.solver.name == "neumann" else {}
    return float(own.get("alpha") or INVERSES["neumann"].options["alpha"].default or 0.0)


def unconverged_lower(point: Point) -> Flag | None:
    """One Newton step of the lower would change the exact hypergradient by more than a little."""
    if point.exact is None or point.moved is None or point.here is None:
        return None
    flat = flatten(_gradient(point.standing)).detach()
    if not float(flat.norm()):
        return None
    newton = lanczos(point.hessian, flat, NEWTON_STEPS).solve()
    there = point.moved(scale(-1.0, unflatten(newton, point.standing.parameters)))
    change = float((there - point.here).norm() / there.norm()) if float(there.norm()) else 0.0
    if not change > ARRIVED:
        return None
    distance = float(newton.norm() / flatten(point.standing.parameters).detach().norm().clamp_min(1e-30))
    return point.flag(
        "unconverged_lower",
        change,
        f"{point.lower} is not at its solution: its gradient has norm {float(flat.norm()):.2g}, and one Newton step, "
        f"{distance:.2g} of the parameters' length, changes the exact hypergradient by {100 * change:.0f} %",
        f"implicit methods err by about as much, whatever their table says: raise the unroll of {point.lower}, or "
        "take a trajectory method, which differentiates the updates that were made",
    )


def _gradient(lower: Lower) -> Tree:
    """The gradient of what the lower descends by its own parameters, averaged over its micro-batches."""
    return lower.gradients({lower.name: lower.parameters}, lower.parameters)[lower.name]


@dataclass(frozen=True)
class _Disagreement:
    """Relative difference of a finite-difference product from the exact one, for ever smaller steps."""

    epsilon: float
    errors: tuple[float, ...]

    @property
    def left(self) -> float:
        """What does not go away: the difference in the middle of the three smallest steps."""
        return sorted(self.errors[-3:])[1]

    @property
    def settled(self) -> bool:
        """Whether the smallest steps agree on what is left."""
        return max(self.errors[-3:]) <= 1.2 * min(self.errors[-3:])

    @property
    def smooth(self) -> bool:
        """Whether the error shrinks with epsilon as truncation does, and not by jumps."""
        pairs = zip(SHRINKS, self.errors, self.errors[1:], strict=False)
        halved = [(now, later) for part, now, later in pairs if part > 2.0**-10 and now > SAME]
        return all(SMOOTH[0] * now <= later <= SMOOTH[1] * now for now, later in halved)


def detached(point: Point) -> Flag | None:
    """Finite differences disagree with exact products, however small the step."""
    found = _disagreement(point)
    if found is None or found.left <= DIFFERENT or not found.settled:
        return None
    return point.flag(
        "detached",
        found.left,
        f"finite differences see what exact products do not: they differ by {_part(found.left)} of the product, "
        "however small their step. The loss uses detach() (or no_grad, .data, a function without a second "
        f"derivative) on what depends on {point.lower}",
        "if the detach is meant, take an exact product (forward or reverse); if not, remove it from the loss",
    )


def kink(point: Point) -> Flag | None:
    """Finite differences disagree at the epsilon of the spec, and come to agree not as a smooth loss would."""
    found = _disagreement(point)
    if found is None or found.errors[0] <= DIFFERENT or (found.settled and found.left > DIFFERENT):
        return None
    if found.smooth:
        return None
    good = next(
        (found.epsilon * part for part, error in zip(SHRINKS, found.errors, strict=True) if error < DIFFERENT), 0
    )
    advice = "take an exact product (forward or reverse)"
    small = f", or epsilon below {good:.0e} where the precision allows that" if good else ""
    return point.flag(
        "kink",
        found.errors[0],
        f"finite differences with epsilon = {found.epsilon:g} are off by {_part(found.errors[0])} of the product: "
        "kinks of the loss (ReLU, abs, max) lie within the step",
        advice + small,
    )


def _part(error: float) -> str:
    return f"{100 * error:.2g} %" if error < 10 else f"{error:.2g} times the length"


def _disagreement(point: Point) -> _Disagreement | None:
    """Differences of both products from the exact ones, the larger of the two, along the adjoint."""
    if point.exact is None:
        return None
    exact = _products(point.exact, point.adjoint)
    epsilon, errors = _epsilon(point.method), []
    for part in SHRINKS:
        call = complete("finite_difference", PRODUCTS["finite_difference"], {"epsilon": epsilon * part})
        found = _products(product(call).linearize(point.standing), point.adjoint)
        errors.append(max(_relative(found[name], exact[name]) for name in exact))
    return _Disagreement(epsilon, tuple(errors))


def _products(at: Linearization, v: Tree) -> Mapping[str, Tensor]:
    pulled = at.pull(v)
    parts = {name: flatten(tree).detach() for name, tree in pulled.items() if tree}
    return {"": flatten(at.hessian(v)).detach(), **parts}


def _relative(found: Tensor, exact: Tensor) -> float:
    whole = max(float(found.norm()), float(exact.norm()))
    return float((found - exact).norm()) / whole if whole else 0.0


def _epsilon(method: Method) -> float:
    """The step of the edge's own finite differences, else that of the table."""
    own = dict(method.product.options) if method.product is not None else {}
    return float(own.get("epsilon") or PRODUCTS["finite_difference"].options["epsilon"].default or 0.01)


def _rounding(point: Point) -> float:
    double = all(leaf.dtype == torch.float64 for leaf in point.standing.parameters)
    return ROUNDING if double else 1e-3


FLAGS: tuple[Callable[[Point], Flag | None], ...] = (
    unconverged_lower,
    negative_curvature,
    divergent_neumann,
    detached,
    kink,
)
"""Every kind of trouble that is looked for, in the order of the report."""


def flags(point: Point) -> Iterator[Flag | str]:
    """What is found at a point; in the place of what cannot be looked for, a sentence that says why."""
    for look in FLAGS:
        try:
            found = look(point)
        except Exception as error:  # a user's loss may fail in evaluations that training never makes
            yield f"{look.__name__} could not be looked for: {first_line(error)}"
            continue
        if found is not None:
            yield found
