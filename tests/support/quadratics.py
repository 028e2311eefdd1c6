r"""Quadratic programs in float64 whose responses are linear, so that every hypergradient is a matter of dense algebra.

Every problem x has the loss

.. math:: L_x = \tfrac12 \theta_x^T A_x \theta_x + \theta_x^T (\sum_y C_{xy} \theta_y + b_x)
          + \sum_y (\tfrac12 \theta_y^T Q_{xy} \theta_y + r_{xy}^T \theta_y)

over the problems y that it reads. The last sum is its goal as a target and does not move its own solution. Symmetric
positive definite :math:`A_x` have their smallest eigenvalue at 1 and the largest at ``condition``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from betty.backends.torch.objective import ParameterModule, View
from betty.ir.methods import Method
from betty.ir.records import Flow
from tests.support.programs import Built, MakeOptimizer, Part, assemble, edge

Link = tuple[str, str, Flow]
"""Upper, lower, flow."""
DOWN, UP, BOTH = Flow.DOWN, Flow.UP, Flow.BOTH

LAYOUTS: dict[str, tuple[Link, ...]] = {
    "two levels": (("top", "low", BOTH),),
    "chain": (("mid", "low", UP), ("top", "mid", UP), ("top", "low", DOWN)),
    "chain with a skip": (("mid", "low", UP), ("top", "mid", UP), ("top", "low", BOTH)),
    "chain acted on twice": (("mid", "low", UP), ("top", "mid", BOTH), ("top", "low", DOWN)),
    "four levels": (("a", "low", UP), ("b", "a", UP), ("b", "low", UP), ("top", "b", BOTH), ("top", "low", DOWN)),
    "diamond": (("a", "low", UP), ("b", "low", UP), ("top", "a", UP), ("top", "b", UP), ("top", "low", DOWN)),
    "lopsided diamond": (("a", "low", UP), ("b", "a", UP), ("b", "low", UP), ("top", "a", BOTH), ("top", "b", UP)),
    "two uppers": (("top", "low", BOTH), ("other", "low", BOTH)),
    "two lowers": (("top", "low", BOTH), ("top", "second", BOTH)),
    "two uppers over two lowers": (
        ("top", "low", BOTH),
        ("top", "second", BOTH),
        ("other", "low", DOWN),
        ("other", "second", BOTH),
        ("second", "low", UP),
    ),
}
"""Hierarchies in which no two problems below a target read each other, nor in a circle."""


def diamonds(count: int) -> tuple[Link, ...]:
    """``count`` diamonds in a row, closed by a top: 4 count + 2 edges, 2^count paths from the bottom to the top."""
    links: list[Link] = []
    for index in range(count):
        for side in (f"a{index}", f"b{index}"):
            links += [(side, f"x{index}", UP), (f"x{index + 1}", side, UP)]
    return (*links, ("top", f"x{count}", UP), ("top", "x0", DOWN))


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The loss of one problem; ``couplings`` are the C, ``goals`` the pairs (Q, r) by the problem read."""

    name: str
    curvature: Tensor
    linear: Tensor
    couplings: Mapping[str, Tensor]
    goals: Mapping[str, tuple[Tensor, Tensor]]

    def loss(self, **views: View) -> Tensor:
        points = {name: point_of(view) for name, view in views.items()}
        own = points[self.name]
        value = own @ (0.5 * self.curvature @ own + self.linear)
        for name, coupling in self.couplings.items():
            matrix, vector = self.goals[name]
            value = value + own @ coupling @ points[name] + points[name] @ (0.5 * matrix @ points[name] + vector)
        return value

    def partial(self, by: str, points: Mapping[str, Tensor]) -> Tensor:
        """The partial derivative by one problem's parameters, written out."""
        if by == self.name:
            pulls = [coupling @ points[name] for name, coupling in self.couplings.items()]
            return self.curvature @ points[by] + self.linear + sum(pulls, torch.zeros_like(self.linear))
        matrix, vector = self.goals[by]
        return self.couplings[by].T @ points[self.name] + matrix @ points[by] + vector

    def cast(self, dtype: torch.dtype) -> Quadratic:
        return Quadratic(
            self.name,
            self.curvature.to(dtype),
            self.linear.to(dtype),
            {name: coupling.to(dtype) for name, coupling in self.couplings.items()},
            {name: (matrix.to(dtype), vector.to(dtype)) for name, (matrix, vector) in self.goals.items()},
        )


def point_of(view: View) -> Tensor:
    """A problem's parameters as one vector."""
    return torch.cat([leaf.reshape(-1) for leaf in view.parameters.values()])


@dataclass(frozen=True, eq=False)
class QuadraticProgram:
    """Quadratic problems with their hierarchy; problems in an order in which lowers come first."""

    problems: Mapping[str, Quadratic]
    links: tuple[Link, ...]
    condition: float

    def reads(self, name: str) -> tuple[str, ...]:
        return tuple(self.problems[name].couplings)

    def below(self, target: str) -> list[str]:
        """All problems that are, directly or not, lower to ``target``; lowers first."""
        found = {target}
        for upper, lower, _ in sorted(self.links, key=lambda link: -self.position(link[0])):
            if upper in found:
                found.add(lower)
        return [name for name in self.problems if name in found and name != target]

    def position(self, name: str) -> int:
        return list(self.problems).index(name)

    def cast(self, dtype: torch.dtype) -> QuadraticProgram:
        """The same program with coefficients rounded to ``dtype``."""
        return replace(self, problems={name: problem.cast(dtype) for name, problem in self.problems.items()})

    @property
    def step_size(self) -> float:
        """The best fixed step of gradient descent; the error shrinks by (condition - 1) / (condition + 1) a step."""
        return 2 / (1 + self.condition)


def generate(links: Iterable[Link], sizes: Sequence[int], seed: int, condition: float = 3.0) -> QuadraticProgram:
    """A program with random coefficients; ``sizes`` are dimensions, taken around again where there are too few."""
    links, generator = tuple(links), torch.Generator().manual_seed(seed)
    names = order(links)
    dimension = {name: sizes[index % len(sizes)] for index, name in enumerate(names)}

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def definite(size: int) -> Tensor:
        basis = torch.linalg.qr(draw(size, size))[0]
        eigenvalues = 1 + (condition - 1) * torch.rand(size, generator=generator, dtype=torch.float64)
        eigenvalues[0], eigenvalues[-1] = 1.0, condition
        return basis @ torch.diag(eigenvalues) @ basis.T

    problems = {}
    for name in names:
        read = _reads(links, name)
        problems[name] = Quadratic(
            name,
            curvature=definite(dimension[name]),
            linear=draw(dimension[name]),
            couplings={other: 0.5 * draw(dimension[name], dimension[other]) for other in read},
            goals={other: (definite(dimension[other]), draw(dimension[other])) for other in read},
        )
    return QuadraticProgram(problems, links, condition)


def order(links: Sequence[Link]) -> list[str]:
    """All problems, each after its lowers."""
    done: list[str] = []
    waiting = list(dict.fromkeys(name for upper, lower, _ in links for name in (lower, upper)))
    while waiting:
        ready = next(n for n in waiting if all(low in done for up, low, _ in links if up == n))
        waiting.remove(ready)
        done.append(ready)
    return done


def _reads(links: Sequence[Link], name: str) -> list[str]:
    lowers = [lower for upper, lower, flow in links if upper == name and flow.up]
    return lowers + [upper for upper, lower, flow in links if lower == name and flow.down]


def module_of(vector: Tensor) -> nn.Module:
    """A point as a problem of two leaves of different shapes (one leaf, where it has a single entry)."""
    half = len(vector) // 2
    leaves = {"matrix": vector[:half].reshape(1, half), "vector": vector[half:]} if half else {"vector": vector}
    return ParameterModule({name: leaf.clone() for name, leaf in leaves.items()})


def build(
    program: QuadraticProgram,
    method: Method | Mapping[tuple[str, str], Method],
    points: Mapping[str, Tensor],
    optimizer: MakeOptimizer | Mapping[str, MakeOptimizer] | None = None,
    unroll: int = 1,
) -> Built:
    """The live program at ``points``; methods by (upper, lower) and optimisers by problem, or one for all.

    Without an optimiser every problem descends with SGD at the program's best step size.
    """

    def descend(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=program.step_size)

    makers = optimizer if isinstance(optimizer, Mapping) else dict.fromkeys(program.problems, optimizer or descend)
    methods = method if isinstance(method, Mapping) else {(up, low): method for up, low, _ in program.links}
    parts = [
        Part(
            name=name,
            module=module_of(points[name]),
            loss=_named_loss(quadratic),
            reads=(name, *quadratic.couplings),
            optimizer=makers.get(name, descend),
            unroll=unroll,
        )
        for name, quadratic in program.problems.items()
    ]
    return assemble(parts, [edge(up, low, methods[up, low], flow) for up, low, flow in program.links])


def _named_loss(quadratic: Quadratic) -> Callable[..., Tensor]:
    def loss(**views: View) -> Tensor:
        return quadratic.loss(**views)

    return loss


def random_points(program: QuadraticProgram, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(len(problem.linear), generator=generator, dtype=torch.float64)
        for name, problem in program.problems.items()
    }


@st.composite
def random_links(draw: st.DrawFn) -> tuple[Link, ...]:
    """Any hierarchy of 2 to 5 problems below one top that reads the last of them and acts on some of them."""
    names = [f"x{index}" for index in range(draw(st.integers(2, 5)))]
    links: list[Link] = []
    for index, name in enumerate(names[1:], 1):
        chosen = draw(st.sets(st.sampled_from(names[:index]), min_size=1))
        links += [(name, other, UP) for other in names if other in chosen]
    read = {lower for _, lower, _ in links}
    acted = draw(st.sets(st.sampled_from(names), min_size=1))
    for name in names:
        up = name not in read or draw(st.booleans())
        if up or name in acted:
            links.append(("top", name, BOTH if up and name in acted else UP if up else DOWN))
    return tuple(links)


@st.composite
def programs(draw: st.DrawFn, links: st.SearchStrategy[tuple[Link, ...]]) -> QuadraticProgram:
    """Generated programs of the given hierarchies."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    return generate(draw(links), sizes, draw(st.integers(0, 2**16)), draw(st.floats(1.5, 3.0)))


named_links = st.sampled_from(sorted(LAYOUTS)).map(LAYOUTS.__getitem__)
any_program = programs(st.one_of(named_links, random_links()))
